//! The heavy steps of `ascribe-core` as portable compute shaders. No kernel has been added yet.
