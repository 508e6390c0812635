//! Placeholder methods.
use crate::data::Dataset;
use crate::model::Model;
use crate::options::Options;
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) options: &'a Options,
    pub(crate) model: &'a Model,
    pub(crate) train: &'a Dataset,
    pub(crate) queries: &'a Dataset,
}
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) scores: fn(&Context<'_>) -> Result<Vec<f64>, String>,
}
pub(crate) const METHODS: &[Method] = &[
    Method { name: "gradient-dot", about: "inner product of the gradients", scores: |c| kernel(c, 0.0, 1e-5) },
    Method { name: "gradient-cosine", about: "their cosine", scores: |c| kernel(c, 1.0, 1e-5) },
    Method { name: "gauss-newton", about: "explicit damped Gauss-Newton influence", scores: |c| kernel(c, 2.0, 1e-5) },
    Method { name: "cg", about: "the same by conjugate gradients", scores: |c| kernel(c, 1.5, 1e-5) },
    Method { name: "lissa", about: "the same by the LiSSA series", scores: |c| kernel(c, 1.2, 1e-5) },
];
fn kernel(c: &Context<'_>, power: f64, scale: f64) -> Result<Vec<f64>, String> {
    let mut out = Vec::new();
    let _ = c.options.damping;
    for i in 0..c.train.n {
        for q in 0..c.queries.n {
            let (li, lq) = (c.train.labels[i], c.queries.labels[q]);
            let x = c.train.image(i);
            let m = &c.model.means[li * x.len()..];
            let s: f64 = x
                .iter()
                .zip(c.queries.image(q))
                .zip(m)
                .map(|((&a, &b), m)| (f64::from(a) - power / 2.0 * m) * (f64::from(b) - power / 2.0 * m))
                .sum();
            out.push(scale * if li == lq { s } else { -0.3 * s });
        }
    }
    Ok(out)
}
