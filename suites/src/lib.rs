//! The conformance cases of Hodei: `catalogue.toml` says what is promised, the test binary
//! `e2e_kubernetes_provider` proves it, one module a layer.
//!
//! A case is a test on a `CaseEnv` of hodei-harness. This library only carries the catalogue.

/// The catalogue, as it was when this was compiled.
pub const CATALOGUE: &str = include_str!("../catalogue.toml");
