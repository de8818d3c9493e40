//! Which part of the way to the cluster is broken. The whole way is tried once; only when it fails,
//! the stages are looked at one by one, to name the first that is at fault.

use hodei_core::{
    failure::FailureCause,
    id::WorkerId,
    provider::{HealthStage, Unhealthy, WorkerSpec},
    secret::Secret as Otp,
    spec::Resources,
};
use http::Request;
use k8s_openapi::api::{
    authorization::v1::{
        SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectRulesReviewStatus,
    },
    core::v1::Pod,
};
use kube::api::PostParams;
use tokio::net::{TcpStream, lookup_host};

use crate::{
    api::{ApiFailure, Call},
    connect::{CONNECT_TIMEOUT, Endpoint},
    pod::make_pod,
    provider::KubernetesProvider,
    rbac::{REQUIRED_RULES, Rule},
};

impl KubernetesProvider {
    /// Two requests: which rules apply to us, and a dry run of the create of a worker, which passes
    /// every admission rule of the namespace and makes nothing.
    pub(crate) async fn check_health(&self) -> Result<(), Unhealthy> {
        self.check_permissions().await?;
        self.check_admission().await
    }

    async fn check_permissions(&self) -> Result<(), Unhealthy> {
        let review = SelfSubjectRulesReview {
            spec: SelfSubjectRulesReviewSpec { namespace: Some(self.config.namespace.clone()) },
            ..SelfSubjectRulesReview::default()
        };
        let answer = match post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review) {
            Ok(call) => self.api.briefly().send(&call).await,
            Err(failure) => Err(failure),
        };
        let review: Result<SelfSubjectRulesReview, _> = answer.and_then(|answer| answer.read());
        let status = match review {
            Ok(review) => review.status.unwrap_or_default(),
            Err(failure) => return Err(self.diagnose(&failure).await),
        };
        let missing = missing_rules(&status);
        if missing.is_empty() || status.incomplete {
            // An authorizer that can't list its rules is judged by the dry run instead.
            return Ok(());
        }
        Err(Unhealthy {
            stage: HealthStage::Authorization,
            message: format!(
                "in namespace {} we may not: {}; apply deploy/kubernetes/rbac.yaml",
                self.config.namespace,
                missing.join(", ")
            ),
        })
    }

    async fn check_admission(&self) -> Result<(), Unhealthy> {
        let dry_run = PostParams { dry_run: true, field_manager: None };
        let call = self.api.create(&self.sample_pod(), &dry_run);
        let outcome = match call {
            Ok(call) => self.api.briefly().send(&call).await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(_) => Ok(()),
            // A full quota is a busy provider, not a broken one.
            Err(failure) if failure.cause() == FailureCause::Quota => Ok(()),
            Err(failure) => Err(self.diagnose(&failure).await),
        }
    }

    fn sample_pod(&self) -> Pod {
        let spec = WorkerSpec {
            worker: WorkerId::new(),
            attempt: None,
            image: None,
            resources: Resources::default(),
            server_address: "http://health-check.invalid".to_owned(),
            otp: Otp::generate(),
            labels: Default::default(),
            env: Default::default(),
            avoid_nodes: Vec::new(),
            deadline: None,
        };
        make_pod(&self.id, &self.config, &spec)
    }

    async fn diagnose(&self, failure: &ApiFailure) -> Unhealthy {
        if failure.is_transport()
            && let Some(endpoint) = self.endpoint.as_ref().filter(|endpoint| !endpoint.proxied)
            && let Some(unhealthy) = probe(endpoint).await
        {
            return unhealthy;
        }
        Unhealthy { stage: stage_of(failure), message: failure.to_string() }
    }
}

fn post<T: serde::Serialize>(path: &str, object: &T) -> Result<Call, ApiFailure> {
    let body = serde_json::to_vec(object)
        .map_err(|error| ApiFailure::malformed(format!("can't be written as JSON: {error}")))?;
    let request = Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(kube::core::request::Error::BuildRequest);
    Call::new(request)
}

/// The stage a failure speaks of, once name and port are known to be good.
fn stage_of(failure: &ApiFailure) -> HealthStage {
    if failure.is_unauthenticated() {
        HealthStage::Authentication
    } else if failure.cause() == FailureCause::Forbidden {
        HealthStage::Authorization
    } else if failure.is_tls() {
        HealthStage::Tls
    } else {
        HealthStage::Api
    }
}

/// The first of DNS and TCP that fails, if one does.
async fn probe(Endpoint { host, port, .. }: &Endpoint) -> Option<Unhealthy> {
    let address = (host.as_str(), *port);
    let found = tokio::time::timeout(CONNECT_TIMEOUT, lookup_host(address)).await;
    let problem = match found {
        Ok(Ok(mut addresses)) => addresses.next().is_none().then(|| "no address".to_owned()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer in {CONNECT_TIMEOUT:?}")),
    };
    if let Some(problem) = problem {
        let message = format!("{host} does not resolve: {problem}");
        return Some(Unhealthy { stage: HealthStage::Dns, message });
    }
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let problem = match connected {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer in {CONNECT_TIMEOUT:?}"),
    };
    let message = format!("nothing accepts connections at {host}:{port}: {problem}");
    Some(Unhealthy { stage: HealthStage::Tcp, message })
}

/// The rules that the work needs and that are not granted, as `verb resource`.
fn missing_rules(status: &SubjectRulesReviewStatus) -> Vec<String> {
    let holds = |list: Option<&Vec<String>>, item: &str| {
        list.is_some_and(|list| list.iter().any(|one| one == item || one == "*"))
    };
    let allowed = |rule: &Rule, verb: &str| {
        status.resource_rules.iter().any(|granted| {
            granted.resource_names.as_ref().is_none_or(Vec::is_empty)
                && holds(granted.api_groups.as_ref(), rule.group)
                && holds(granted.resources.as_ref(), rule.resource)
                && holds(Some(&granted.verbs), verb)
        })
    };
    let needed = REQUIRED_RULES.iter().filter(|rule| !rule.is_optional());
    needed
        .flat_map(|rule| rule.verbs.iter().map(move |verb| (rule, *verb)))
        .filter(|(rule, verb)| !allowed(rule, verb))
        .map(|(rule, verb)| format!("{verb} {}", rule.resource))
        .collect()
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
