//! The command from outside, against a scripted server that speaks the real protocols.

#![expect(clippy::unwrap_used, reason = "clippy does not take what a test calls for a test")]

mod jobs;
mod peer;
mod rest;
mod throttled;
mod words;
