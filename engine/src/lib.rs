//! engine
pub mod sys;
