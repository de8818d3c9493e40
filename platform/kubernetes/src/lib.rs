//! Hodei workers as Kubernetes pods: [`KubernetesProvider`] stands behind the port
//! [`hodei_core::provider::WorkerProvider`].
//!
//! A worker is one Pod that passes the Pod Security level `restricted` and one Secret with its
//! one-time password. Its life costs four requests beside the one watch that all workers of a
//! provider share: create Secret, create Pod, delete Secret, delete Pod.
//!
//! | module | what it answers |
//! |---|---|
//! | `config` | what an operator decides |
//! | `names` | by which names and labels our resources are found |
//! | `pod` | what a worker is made of |
//! | `phase` | what a pod's status means |
//! | `watch` | what there is now, without asking |
//! | `events` | what the cluster's events add to a failure |
//! | `api` | how fast a request is sent, when again, and how its failure is told |
//! | `connect`, `health` | how the cluster is reached, and what is broken when it is not |
//! | `capabilities`, `startup` | what the cluster can offer, and how fast |
//! | `create`, `destroy`, `logs` | the operations of the port |
//! | `measure` | which metrics there are |
//! | `rbac` | which permissions all this needs |
//!
//! Nothing outside this crate names `kube` or `k8s-openapi` in the platform.

mod api;
mod capabilities;
mod config;
mod connect;
mod create;
mod destroy;
mod events;
mod health;
mod logs;
mod measure;
mod names;
mod phase;
mod pod;
mod provider;
mod rbac;
#[cfg(test)]
mod refusals_tests;
mod startup;
mod stream;
#[cfg(test)]
mod testing;
mod watch;

pub use self::{
    capabilities::{Headroom, headroom, why_closed},
    config::{
        ConfigProblem, HostAlias, ImagePullPolicy, InvalidConfig, InvalidToleration,
        KubernetesConfig, KubernetesConfigBuilder, KubernetesToleration,
        KubernetesTolerationBuilder, RestartPolicy, SETTINGS, Setting, TaintEffect,
        TolerationOperator, is_enabled,
    },
    logs::parse_log_line,
    measure::{METRICS, Metric, MetricKind},
    names::{pod_name, secret_name, selector},
    pod::{make_pod, make_secret},
    provider::{KubernetesProvider, KubernetesProviderBuilder},
    rbac::{REQUIRED_RULES, Rule, Scope},
};
