#![allow(missing_docs, missing_debug_implementations, clippy::missing_errors_doc)]
// STAND-IN until the covariance branch lands.
use core::marker::PhantomData;
use ascribe_core::record::LayerRecord;
use ascribe_core::{MatRef, MatMut, Real};
use super::Fisher;
use crate::Error;
use crate::linalg::matmul;
use crate::parallel::Parallelism;
#[derive(Clone, Copy)]
pub struct LayerShape { pub d_in: usize, pub d_out: usize, pub bias: bool }
impl LayerShape { pub fn weight_cols(&self) -> usize { self.d_in + usize::from(self.bias) } }
pub enum Sharing { Expand, Reduce }
pub enum Count { Example, Position }
pub struct LayerCovariance<S, F> { shape: LayerShape, a: Vec<f64>, g: Vec<f64>, m: f64, n: f64, par: Parallelism, f: PhantomData<(S, F)> }
impl<S: Real, F: Fisher> LayerCovariance<S, F> {
    pub fn new(shape: LayerShape, _: Sharing, _: Count, par: Parallelism) -> Result<Self, Error> {
        let i = shape.weight_cols();
        Ok(Self { shape, a: vec![0.0; i * i], g: vec![0.0; shape.d_out * shape.d_out], m: 0.0, n: 0.0, par, f: PhantomData })
    }
    pub fn shape(&self) -> LayerShape { self.shape }
    pub fn add<T: Real>(&mut self, r: &LayerRecord<'_, T>, more: &[MatRef<'_, T>]) -> Result<(), Error> {
        let mut x = Vec::new(); let mut count = 0; let mut ys = vec![Vec::new(); 1 + more.len()];
        for n in 0..r.examples() { let mut any = false; for row in r.runs(n).flatten() { any = true; count += 1;
            x.extend(r.inputs().row(row).iter().map(|v| v.to_f64())); if r.has_bias() { x.push(1.0); }
            ys[0].extend(r.output_grads().row(row).iter().map(|v| v.to_f64()));
            for (y, d) in ys[1..].iter_mut().zip(more) { y.extend(d.row(row).iter().map(|v| v.to_f64())); } }
            self.n += f64::from(any); }
        self.m += count as f64;
        let (i, o) = (self.shape.weight_cols(), self.shape.d_out);
        let xm = MatRef::new(&x, count, i)?;
        matmul(MatMut::new(&mut self.a, i, i)?, 1.0, 1.0, xm.t(), xm, self.par)?;
        for y in &ys { let y = MatRef::new(y, count, o)?; matmul(MatMut::new(&mut self.g, o, o)?, 1.0, 1.0, y.t(), y, self.par)?; }
        Ok(())
    }
    pub fn factors(&self) -> Result<(Vec<f64>, Vec<f64>), Error> {
        if self.n == 0.0 { return Err(ascribe_core::Error::Empty { what: "examples" }.into()); }
        Ok((self.a.iter().map(|x| x / self.m).collect(), self.g.iter().map(|x| x / self.n).collect()))
    }
}
pub struct Covariances<S, F> { layers: Vec<(String, LayerCovariance<S, F>)> }
impl<S, F> Default for Covariances<S, F> { fn default() -> Self { Self { layers: vec![] } } }
impl<S: Real, F: Fisher> Covariances<S, F> {
    pub fn push(&mut self, name: &str, layer: LayerCovariance<S, F>) -> Result<(), Error> { self.layers.push((name.into(), layer)); Ok(()) }
    pub fn add<T: Real>(&mut self, l: usize, r: &LayerRecord<'_, T>, more: &[MatRef<'_, T>]) -> Result<(), Error> { self.layers[l].1.add(r, more) }
    pub fn layers(&self) -> impl Iterator<Item = (&str, &LayerCovariance<S, F>)> { self.layers.iter().map(|(n, l)| (n.as_str(), l)) }
    pub fn merge(&mut self, o: &Self) -> Result<(), Error> { for ((_, a), (_, b)) in self.layers.iter_mut().zip(&o.layers) {
        a.a.iter_mut().zip(&b.a).for_each(|(x, y)| *x += y); a.g.iter_mut().zip(&b.g).for_each(|(x, y)| *x += y); a.m += b.m; a.n += b.n; } Ok(()) }
}
