//! `hodei-e2e doctor`: what is there, what is missing, what mends it; on this machine or, with
//! `--from-cluster`, on a cluster that is there already.

use std::ffi::OsString;
use std::path::PathBuf;

use hodei_harness::doctor::cluster::{ClusterRequest, ServerAddress};
use hodei_harness::doctor::{self, cluster};
use hodei_harness::failure::{Classify, FailureClass, HarnessError, Result};
use hodei_kubernetes::KubernetesConfig;

use super::{Context, OutputFormat, refuse};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hodei-e2e doctor                                        this machine
  hodei-e2e doctor --from-cluster                         the cluster of KUBECONFIG
  hodei-e2e doctor --from-cluster --kubeconfig prod.yaml --namespace hodei-jobs-workers \\
      --image registry.example.org/hodei-jobs-worker:1.0 --server http://hodei.example.org:50051
  hodei-e2e doctor --from-cluster --as system:serviceaccount:hodei-system:hodei-control-plane
                                                          what the control plane may do

Of a cluster: its version, the rights of who asks, the namespace and its Pod Security level,
whether a worker's pod is admitted, quota and limit range, nodes, and a probe pod on each node that
takes workers, which is deleted again; all else is asked or a dry run. The provider's settings are
read from the environment (HODEI_K8S_…, HODEI_WORKER_IMAGE), as a server reads them; flags come
before them.

Exit codes: 0 if all that is needed is there, 2 for a wrong setting, 10 for what has to be mended.")]
pub(super) struct Args {
    /// Look at a cluster that is there already, not at this machine
    #[arg(long)]
    from_cluster: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How the report is printed
    #[arg(long, value_enum, default_value = "text")]
    output: OutputFormat,
}

#[derive(Debug, clap::Args)]
struct ClusterArgs {
    /// How the cluster is reached [default: HODEI_K8S_KUBECONFIG, KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "PATH", requires = "from_cluster")]
    kubeconfig: Option<PathBuf>,
    /// Which context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "from_cluster")]
    context: Option<String>,
    /// The namespace of the workers [default: hodei-jobs-workers]
    #[arg(long, value_name = "NS", requires = "from_cluster")]
    namespace: Option<String>,
    /// The image of the workers [default: hodei-jobs-worker:latest]
    #[arg(long, value_name = "IMAGE", requires = "from_cluster")]
    image: Option<String>,
    /// The server that workers are to reach, http://HOST:PORT (name, TCP and gRPC are tried) or
    /// https://HOST:PORT (name and TCP)
    #[arg(long, value_name = "URL", requires = "from_cluster")]
    server: Option<ServerAddress>,
    /// Ask as this user, whom the kubeconfig's may impersonate
    #[arg(long = "as", value_name = "USER", requires = "from_cluster")]
    user: Option<String>,
}

/// Reads one variable of the environment.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl ClusterArgs {
    /// What is to be looked at.
    fn request(self, environment: Lookup<'_>) -> Result<ClusterRequest> {
        let wrong =
            |cause| HarnessError::new(FailureClass::Harness, "use", "these settings", cause);
        let text = |name: &str| environment(name).and_then(|value| value.into_string().ok());
        let flags = |name: &str| match name {
            "HODEI_K8S_CONTEXT" => self.context.clone(),
            "HODEI_K8S_NAMESPACE" => self.namespace.clone(),
            "HODEI_WORKER_IMAGE" => self.image.clone(),
            _ => None,
        };
        let config = KubernetesConfig::from_env(|name| flags(name).or_else(|| text(name)));
        let mut config = config.map_err(|error| wrong(error.to_string()))?;
        let named = self.kubeconfig.or_else(|| config.kubeconfig.take().map(PathBuf::from));
        let path = match named {
            Some(path) => path,
            None => usual_kubeconfig(environment).map_err(wrong)?,
        };
        let path = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
        // What is probed is journalled by this path, which is text there.
        let path = path.into_os_string().into_string();
        config.kubeconfig =
            Some(path.map_err(|_| wrong("the path of the kubeconfig is not UTF-8".into()))?);
        Ok(ClusterRequest { config, user: self.user, server: self.server })
    }
}

/// Where kubectl would look, if that is one file.
fn usual_kubeconfig(environment: Lookup<'_>) -> Result<PathBuf, String> {
    let listed = environment("KUBECONFIG").unwrap_or_default();
    let mut paths = std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty());
    match (paths.next(), paths.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err("KUBECONFIG names several files: say --kubeconfig PATH".into()),
        (None, _) => {
            let home = environment("HOME").ok_or("there is no HOME: say --kubeconfig PATH")?;
            Ok(PathBuf::from(home).join(".kube/config"))
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let stage = context.progress.unlisted();
    let report = if args.from_cluster {
        let request = match args.cluster.request(&|name| std::env::var_os(name)) {
            Ok(request) => request,
            Err(error) => return Ok(refuse(error)),
        };
        cluster::examine(&context.paths, &request, &stage).await?
    } else {
        doctor::examine(&context.paths, &stage).await?
    };
    match args.output {
        OutputFormat::Text => print!("{}", report.render()),
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(&report);
            println!("{}", text.classify(FailureClass::Harness, "print", "the report")?);
        }
    }
    Ok(report.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(
        args: ClusterArgs,
        environment: &[(&str, &str)],
    ) -> Result<KubernetesConfig, String> {
        let lookup = |name: &str| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let request = args.request(&lookup).map_err(|error| error.source.to_string())?;
        Ok(request.config)
    }

    fn args(kubeconfig: Option<&str>, namespace: Option<&str>) -> ClusterArgs {
        ClusterArgs {
            kubeconfig: kubeconfig.map(PathBuf::from),
            context: None,
            namespace: namespace.map(str::to_owned),
            image: None,
            server: None,
            user: None,
        }
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_usual_place() {
        let of = |args, environment: &[(&str, &str)]| {
            let config = request(args, environment).unwrap();
            (config.kubeconfig.unwrap(), config.namespace)
        };
        let pair = |path: &str, namespace: &str| (path.to_owned(), namespace.to_owned());
        let home = ("HOME", "/h");
        let (usual, hodeis) = (("KUBECONFIG", "/k"), ("HODEI_K8S_KUBECONFIG", "/p"));
        let workers = ("HODEI_K8S_NAMESPACE", "team-a");
        let default = "hodei-jobs-workers";
        for (args, environment, expect) in [
            (args(None, None), &[home][..], pair("/h/.kube/config", default)),
            (args(None, None), &[home, usual], pair("/k", default)),
            (args(None, None), &[home, usual, hodeis, workers], pair("/p", "team-a")),
            (args(Some("/f"), Some("n")), &[home, usual, hodeis, workers], pair("/f", "n")),
        ] {
            assert_eq!(of(args, environment), expect);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (args, environment, says) in [
            (args(None, None), &[("KUBECONFIG", "/a:/b")][..], "names several files"),
            (args(None, None), &[], "there is no HOME"),
            (args(Some("/f"), Some("Not_A_Label")), &[], "HODEI_K8S_NAMESPACE"),
            (args(Some("/f"), None), &[("HODEI_K8S_TOLERATIONS", "=")], "HODEI_K8S_TOLERATIONS"),
        ] {
            let error = request(args, environment).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
