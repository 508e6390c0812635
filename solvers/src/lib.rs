//! Networks with exact derivatives, inverse-Hessian products and the attribution methods that stand on them.
#![forbid(unsafe_code)]
