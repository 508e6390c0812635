//! The rule by which an output passes.

use std::fmt::Write as _;

use super::case::Values;
use crate::Failure;
use crate::failure::fail;

/// `max|got - want| <= atol + rtol max|want|` over the whole tensor; integers exactly.
pub(super) fn compare(
    got: (&[usize], &Values),
    want: (&[usize], &Values),
    rtol: f64,
    atol: f64,
) -> Result<(bool, String), Failure> {
    if got.0 != want.0 {
        return fail(format!("has shape {:?}, expected {:?}", got.0, want.0));
    }
    let (error, largest, rtol, atol) = match (got.1, want.1) {
        (Values::Float(got), Values::Float(want)) => {
            let error = greatest(got.iter().zip(want).map(|(g, w)| (g - w).abs()));
            (error, greatest(want.iter().map(|w| w.abs())), rtol, atol)
        }
        (Values::Integer(got), Values::Integer(want)) => {
            let error = greatest(got.iter().zip(want).map(|(g, w)| g.abs_diff(*w) as f64));
            (error, greatest(want.iter().map(|w| w.unsigned_abs() as f64)), 0.0, 0.0)
        }
        (Values::Float(_), _) => return fail("is a tensor of floats, expected integers"),
        (Values::Integer(_), _) => return fail("is a tensor of integers, expected floats"),
    };
    // With nothing but zeros expected there is no scale: both figures are absolute then.
    let scale = if largest == 0.0 { 1.0 } else { largest };
    let mut figures = String::new();
    let _ = write!(figures, "rel_err={:.3e} tol={:.3e}", error / scale, rtol + atol / scale);
    Ok((error <= atol + rtol * largest, figures))
}

/// The maximum, which is NaN as soon as one element is: `f64::max` would drop it, and with it a failure.
fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |max, x| if x > max || x.is_nan() { x } else { max })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(got: &[f64], want: &[f64], rtol: f64, atol: f64) -> bool {
        let values = |x: &[f64]| Values::Float(x.to_vec());
        compare((&[got.len()], &values(got)), (&[want.len()], &values(want)), rtol, atol).is_ok_and(|(pass, _)| pass)
    }

    #[test]
    fn the_rule_of_comparison() {
        assert!(verdict(&[1.0, 100.1], &[1.0, 100.0], 1.1e-3, 0.0), "one maximum over the whole tensor");
        assert!(!verdict(&[1.0, 100.2], &[1.0, 100.0], 1.1e-3, 0.0));
        assert!(verdict(&[0.0, 1e-13], &[0.0, 0.0], 1e-9, 1e-12), "atol carries a tensor of zeros");
        assert!(!verdict(&[0.0, 1e-11], &[0.0, 0.0], 1e-9, 1e-12));
        assert!(verdict(&[], &[], 0.0, 0.0));
        assert!(!verdict(&[1.0], &[1.0, 1.0], 1.0, 1.0), "shapes");
    }

    #[test]
    fn a_nan_never_passes() {
        for got in [[f64::NAN, 1.0], [1.0, f64::NAN], [f64::INFINITY, 1.0]] {
            assert!(!verdict(&got, &[1.0, 1.0], 1.0, 1.0), "{got:?}");
        }
        assert!(!verdict(&[1.0], &[f64::NAN], 1.0, 1.0));
        assert!(!verdict(&[f64::INFINITY], &[f64::INFINITY], 1.0, 1.0));
    }

    #[test]
    fn integers_are_exact_and_never_compared_with_floats() {
        let (one, two) = (Values::Integer(vec![1 << 60]), Values::Integer(vec![(1 << 60) + 1]));
        assert!(compare((&[1], &one), (&[1], &one), 0.0, 0.0).unwrap().0);
        assert!(!compare((&[1], &two), (&[1], &one), 1.0, 1.0).unwrap().0);
        assert!(compare((&[1], &one), (&[1], &Values::Float(vec![1.0])), 1.0, 1.0).is_err());
    }
}
