//! What is known of an image without the image: read from its tree, served to machines, planned with.

pub mod drivers;
