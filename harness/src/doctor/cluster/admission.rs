//! The namespace, and what is admitted to it: the provider's own pod, and two like it that the Pod
//! Security level `restricted` refuses. All of it is a server-side dry run, which passes every
//! admission rule of the namespace and makes nothing.

use hodei_core::id::{ProviderId, WorkerId};
use hodei_core::provider::WorkerSpec;
use hodei_core::secret::Secret;
use hodei_core::spec::Resources;
use hodei_kubernetes::{KubernetesConfig, make_pod};
use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceRequirements, SecurityContext};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use kube::api::{Api, PostParams};

use super::ask::{Refused, ask};
use crate::doctor::{Check, Status};

/// The label by which a namespace enforces a Pod Security level.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// What came of a dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// It would be made.
    Admitted,
    /// It would not, and who says so.
    Refused(Gate, String),
    /// Nobody knows.
    Unknown(String),
}

/// Who refuses a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    PodSecurity,
    Quota,
    LimitRange,
    ServiceAccount,
    Authorizer,
    Webhook,
    Other,
}

impl Gate {
    /// By the words of the plug-ins of Kubernetes' admission chain, 1.28 to 1.34.
    fn of(words: &str) -> Self {
        let says = |part| words.contains(part);
        match () {
            () if says("violates PodSecurity") => Self::PodSecurity,
            () if says("exceeded quota") || says("failed quota") => Self::Quota,
            () if says("usage per Container") || says("usage per Pod") => Self::LimitRange,
            () if says("error looking up service account") => Self::ServiceAccount,
            () if says("cannot create resource") => Self::Authorizer,
            () if says("admission webhook") || says("ValidatingAdmissionPolicy") => Self::Webhook,
            () => Self::Other,
        }
    }

    /// What mends it.
    const fn fix(self) -> &'static str {
        match self {
            Self::PodSecurity => {
                "a worker meets `restricted`: a field of the provider's settings must be what does not"
            }
            Self::Quota => {
                "raise the quota, or wait until workers are gone (deploy/kubernetes/quota.yaml)"
            }
            Self::LimitRange => {
                "widen the limit range, or set HODEI_K8S_DEFAULT_{CPU,MEMORY}_{REQUEST,LIMIT}"
            }
            Self::ServiceAccount => {
                "kubectl apply -f deploy/kubernetes/rbac.yaml, or set HODEI_K8S_SERVICE_ACCOUNT"
            }
            Self::Authorizer => "kubectl apply -f deploy/kubernetes/rbac.yaml",
            Self::Webhook => "change the policy, or exempt the workers' namespace from it",
            Self::Other => "the API server's words say what it wants",
        }
    }
}

impl From<Refused> for Admission {
    fn from(refused: Refused) -> Self {
        let words = refused.to_string();
        // The pod's name is of no interest: there is no such pod.
        let words = match words.split_once("\" is forbidden: ") {
            Some((pod, why)) if pod.starts_with("pods \"") => why.to_owned(),
            _ => words,
        };
        match refused {
            Refused::Forbidden(_) | Refused::Said(_) => Self::Refused(Gate::of(&words), words),
            _ => Self::Unknown(words),
        }
    }
}

impl Admission {
    /// What it means for a pod that is to be made.
    pub(super) fn check(&self, id: &str, needed: &str) -> Check {
        let check = |status, found: &str| Check::new(id, needed, status, found);
        match self {
            Self::Admitted => check(Status::Ok, "admitted"),
            // A full quota is a busy namespace, not a broken one.
            Self::Refused(Gate::Quota, words) => check(Status::Warn, words).fix(Gate::Quota.fix()),
            Self::Refused(gate, words) => check(Status::Fail, words).fix(gate.fix()),
            Self::Unknown(words) => check(Status::Fail, words).fix("ask again"),
        }
    }
}

/// The pod of a worker, as the provider would make it.
pub(super) fn worker_pod(config: &KubernetesConfig) -> Pod {
    let id: ProviderId = "hodei-doctor".parse().expect("it is a DNS label");
    let spec = WorkerSpec {
        worker: WorkerId::new(),
        attempt: None,
        image: None,
        resources: Resources::default(),
        server_address: "http://doctor.invalid".to_owned(),
        otp: Secret::generate(),
        labels: Default::default(),
        env: Default::default(),
        avoid_nodes: Vec::new(),
        deadline: None,
    };
    make_pod(&id, config, &spec)
}

/// What hardly a limit range refuses.
pub(super) fn little() -> ResourceRequirements {
    let of = |cpu: &str, memory: &str| {
        let pairs = [("cpu", cpu), ("memory", memory)];
        let all = pairs.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
        Some(all.into())
    };
    ResourceRequirements {
        requests: of("10m", "16Mi"),
        limits: of("500m", "64Mi"),
        ..ResourceRequirements::default()
    }
}

fn with_security(pod: &Pod, pod_wide: bool, context: &SecurityContext) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        if !pod_wide {
            spec.security_context = None;
        }
        spec.containers.iter_mut().for_each(|one| one.security_context = Some(context.clone()));
    }
    pod
}

/// Only `privileged` admits this.
fn privileged(pod: &Pod) -> Pod {
    let context = SecurityContext { privileged: Some(true), ..SecurityContext::default() };
    with_security(pod, true, &context)
}

/// `baseline` admits this, and `restricted` does not: it may be root.
fn unrestricted(pod: &Pod) -> Pod {
    with_security(pod, false, &SecurityContext::default())
}

/// The service account that every namespace has.
const ANY_ACCOUNT: &str = "default";

/// What dry runs said of a worker and of two that are not to be admitted.
#[derive(Debug)]
pub(super) struct DryRuns {
    pub(super) worker: Admission,
    /// A worker that asks for little, of the account that every namespace has, as are the two: what
    /// else keeps a worker out is not to hide this.
    pub(super) reference: Admission,
    pub(super) unrestricted: Admission,
    pub(super) privileged: Admission,
}

impl DryRuns {
    pub(super) async fn make(client: &Client, config: &KubernetesConfig) -> Self {
        let pods = Api::<Pod>::namespaced(client.clone(), &config.namespace);
        let worker = worker_pod(config);
        let mut reference = worker.clone();
        if let Some(spec) = &mut reference.spec {
            spec.service_account_name = Some(ANY_ACCOUNT.to_owned());
            spec.containers.iter_mut().for_each(|one| one.resources = Some(little()));
        }
        let (unrestricted, privileged) = (unrestricted(&reference), privileged(&reference));
        let (worker, reference, unrestricted, privileged) = tokio::join!(
            dry_run(&pods, &worker),
            dry_run(&pods, &reference),
            dry_run(&pods, &unrestricted),
            dry_run(&pods, &privileged)
        );
        Self { worker, reference, unrestricted, privileged }
    }

    /// Whether the provider's own pod is admitted.
    pub(super) fn worker_check(&self) -> Check {
        self.worker.check("worker-pod", "a worker's pod is admitted (dry run)")
    }

    /// Whether what `restricted` forbids is refused, whoever refuses it; `level` is what the label
    /// of the namespace says.
    pub(super) fn security_check(&self, level: &Level) -> Check {
        let needed = "pods are held to `restricted` (dry runs)";
        let check = |status, found| Check::new("pod-security", needed, status, found);
        let label = "kubectl label namespace NAME pod-security.kubernetes.io/enforce=restricted";
        match (self.keeps_out(&self.privileged), self.keeps_out(&self.unrestricted)) {
            (None, _) | (_, None) => {
                let words = match (&self.privileged, &self.reference) {
                    (Admission::Unknown(words) | Admission::Refused(_, words), _) => words,
                    (_, Admission::Unknown(words) | Admission::Refused(_, words)) => words,
                    _ => "no answer",
                };
                check(Status::Warn, format!("{level}; not proven: {words}"))
                    .fix("mend worker-pod first: what refuses a worker hides what refuses others")
            }
            (Some(true), Some(true)) => {
                let found = "a privileged pod and one that may be root are refused";
                check(Status::Ok, format!("{level}; {found}"))
            }
            (Some(true), Some(false)) => {
                let found = "a privileged pod is refused, one that may be root is admitted";
                check(Status::Warn, format!("{level}; {found}")).fix(label)
            }
            (Some(false), _) => {
                check(Status::Fail, format!("{level}; a privileged pod is admitted")).fix(label)
            }
        }
    }

    /// Whether a pod is refused for what makes it differ from the reference; `None` if that cannot be
    /// told, as the reference is refused, too, and for something else.
    fn keeps_out(&self, of: &Admission) -> Option<bool> {
        match (of, &self.reference) {
            (Admission::Admitted, _) => Some(false),
            (Admission::Refused(Gate::PodSecurity, _), _) => Some(true),
            (Admission::Refused(..), Admission::Admitted) => Some(true),
            _ => None,
        }
    }
}

async fn dry_run(pods: &Api<Pod>, pod: &Pod) -> Admission {
    let params = PostParams { dry_run: true, field_manager: None };
    match ask(pods.create(&params, pod)).await {
        Ok(_) => Admission::Admitted,
        Err(refused) => refused.into(),
    }
}

/// What a namespace says that it enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Level {
    /// Its label.
    Label(String),
    /// It has no label.
    None,
    /// It may not be read.
    Unknown,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label(level) => write!(f, "label enforce={level}"),
            Self::None => f.write_str("no label"),
            Self::Unknown => f.write_str("label not known"),
        }
    }
}

/// The namespace: whether there is one that takes pods, and what it enforces.
pub(super) async fn namespace(client: &Client, name: &str) -> (Check, Option<Level>) {
    let check =
        |status, found: String| Check::new("namespace", format!("{name} is there"), status, found);
    let namespaces = Api::<Namespace>::all(client.clone());
    let found = match ask(namespaces.get(name)).await {
        Ok(found) => found,
        Err(Refused::NotFound(words)) => {
            let fix = "kubectl apply -f deploy/kubernetes/namespace.yaml, or say --namespace";
            return (check(Status::Fail, words).fix(fix), None);
        }
        Err(refused) => {
            let check = check(Status::Warn, refused.to_string());
            return (check.fix("it is looked at all the same"), Some(Level::Unknown));
        }
    };
    let phase = found.status.and_then(|status| status.phase).unwrap_or_default();
    if phase == "Terminating" {
        let fix = "wait until it is gone, then make it again";
        return (check(Status::Fail, "it is being deleted".into()).fix(fix), None);
    }
    let level = found.metadata.labels.and_then(|mut labels| labels.remove(ENFORCE));
    (check(Status::Ok, phase), Some(level.map_or(Level::None, Level::Label)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &str) -> Admission {
        Refused::Forbidden(words.to_owned()).into()
    }

    /// The words are those of real API servers.
    #[test]
    fn each_gate_is_known_by_its_words() {
        for (words, gate) in [
            (
                "pods \"w\" is forbidden: violates PodSecurity \"restricted:latest\": privileged (container \"agent\" must not set securityContext.privileged=true)",
                Gate::PodSecurity,
            ),
            (
                "pods \"w\" is forbidden: exceeded quota: workers, requested: pods=1, used: pods=0, limited: pods=0",
                Gate::Quota,
            ),
            (
                "pods \"w\" is forbidden: failed quota: q: must specify limits.cpu for: agent",
                Gate::Quota,
            ),
            (
                "pods \"w\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
                Gate::LimitRange,
            ),
            (
                "pods \"w\" is forbidden: error looking up service account a/b: serviceaccount \"b\" not found",
                Gate::ServiceAccount,
            ),
            (
                "pods is forbidden: User \"jane\" cannot create resource \"pods\" in API group \"\" in the namespace \"a\"",
                Gate::Authorizer,
            ),
            ("admission webhook \"validate.example.org\" denied the request: no", Gate::Webhook),
            ("something new", Gate::Other),
        ] {
            let bare = words.trim_start_matches("pods \"w\" is forbidden: ");
            assert_eq!(refused(words), Admission::Refused(gate, bare.into()));
        }
        assert!(matches!(Refused::Silent("x".into()).into(), Admission::Unknown(_)));
    }

    #[test]
    fn the_level_is_what_is_refused_and_not_what_a_label_says() {
        let no =
            || refused("pods \"w\" is forbidden: violates PodSecurity \"restricted:latest\": x");
        let full = || refused("pods \"w\" is forbidden: exceeded quota: workers");
        let engine = || refused("admission webhook \"policy\" denied the request: no");
        let yes = || Admission::Admitted;
        for (privileged, unrestricted, worker, status) in [
            (no(), no(), yes(), Status::Ok),
            (engine(), engine(), yes(), Status::Ok),
            (no(), no(), full(), Status::Ok),
            (no(), yes(), yes(), Status::Warn),
            (yes(), yes(), yes(), Status::Fail),
            // Whoever refuses everybody proves nothing.
            (full(), full(), full(), Status::Warn),
            (engine(), engine(), engine(), Status::Warn),
        ] {
            let account = refused("error looking up service account a/b: not found");
            let reference = worker;
            let dry_runs = DryRuns { worker: account, reference, unrestricted, privileged };
            let check = dry_runs.security_check(&Level::Label("restricted".into()));
            assert_eq!(check.status, status, "{dry_runs:?}: {}", check.found);
            assert_eq!(check.fix.is_empty(), status == Status::Ok, "{}", check.fix);
        }
    }

    #[test]
    fn the_twins_differ_from_a_worker_in_their_security_alone() {
        let worker = worker_pod(&KubernetesConfig::default());
        let plain = |mut pod: Pod| {
            let spec = pod.spec.as_mut().unwrap();
            spec.security_context = None;
            spec.containers[0].security_context = None;
            pod
        };
        for twin in [privileged(&worker), unrestricted(&worker)] {
            assert_ne!(twin, worker);
            assert_eq!(plain(twin), plain(worker.clone()));
        }
    }
}
