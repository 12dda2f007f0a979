//! The stages of SystemImager, in the order in which data flows: capture → store → plan → boot → install →
//! update.
//!
//! Parsers and planners are pure; [`sys`] is the one module that spawns programs and mounts. A stage
//! uses earlier stages' outputs and types, never later ones. No module names a concrete plugin.

pub mod account;
pub mod boot;
pub mod booted;
pub mod capture;
pub mod config;
pub mod door;
pub mod facts;
#[doc(hidden)]
pub mod fuzzing;
pub mod hardware;
pub mod helper;
pub mod host;
pub mod install;
pub mod key;
pub mod local_cfg;
pub mod machine_secret;
pub mod offer;
pub mod overrides;
pub mod pins;
pub mod plan;
pub mod remote;
pub mod report;
pub mod serve;
pub mod signed;
pub mod store;
pub mod sys;
pub mod transfer;
pub mod tree;
pub mod update;
