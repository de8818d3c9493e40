//! The cases on a real cluster, a module a layer. Each runs by `make e2e`, or after `make up` by
//! `HODEI_K8S_TEST=1 cargo test -p hodei-suites --test e2e_kubernetes_provider -- --ignored`.

mod cleanup;
mod full_job;
mod infra;
mod lifecycle;
mod multi_worker;
mod pods;
mod registration;
