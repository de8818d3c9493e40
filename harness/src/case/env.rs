//! What a test works with: one case's namespace, database, server, provider and clients.

use std::path::{Path, PathBuf};

use hodei_proto::v1::{Command, Job, JobSpec, SubmitJobRequest, job_spec};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Map, Value, json};

use super::disturbance::Disturbance;
use super::namespace::{CaseNamespace, Place, TOKEN_VALIDITY, write_kubeconfig};
use super::stack::{Stack, StackPlace, clone_database, start_stack};
use super::{CaseOptions, Clients, Recorder};
use crate::cluster::ready;
use crate::environment::Environment;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::journal::Journal;
use crate::postgres;
use crate::run_dir::{RunDir, RunId};
use crate::server_process::ServerProcess;

/// The provider that a case has unless it asks for none.
pub const PROVIDER: &str = "kind";
/// What production grants the control plane, in the checkout.
const PRODUCTION_RBAC: &str = "deploy/kubernetes/rbac.yaml";

/// One case's share of the environment.
pub struct CaseEnv {
    pub(super) id: String,
    pub(super) run: RunId,
    pub(super) environment: Environment,
    pub(super) client: Client,
    pub(super) journal: Journal,
    pub(super) evidence: PathBuf,
    pub(super) namespace: CaseNamespace,
    pub(super) recorder: Recorder,
    pub(super) stack: Option<Stack>,
    pub(super) kubeconfig: PathBuf,
    pub(super) disturbance: Disturbance,
}

impl CaseEnv {
    /// Makes what a case asks for, each thing journalled before it is made.
    pub(super) async fn start(
        id: &str,
        slug: &str,
        environment: Environment,
        run: &RunDir,
        options: &CaseOptions,
    ) -> Result<Self> {
        let evidence = run.evidence(id);
        std::fs::create_dir_all(&evidence)
            .infrastructure("make", evidence.display().to_string())?;
        let journal = run.journal(Some(id));
        let client = ready::client(&environment.cluster).await?;
        let name = format!("hodei-e2e-{}-{slug}", run.short());
        let recorder = Recorder::start(&client, &name, &evidence)?;
        let place = Place {
            client: &client,
            environment: &environment,
            journal: &journal,
            run: &run.id,
            case: id,
        };
        let database = format!("e2e_{}_{slug}", run.short()).replace('-', "_");
        let (namespace, database) = tokio::join!(
            CaseNamespace::create(&place, &name, options),
            clone_database(&environment, &journal, &database, options.server),
        );
        let (namespace, database) = (namespace?, database?);
        let private = run.private(id);
        crate::paths::ensure_private_dir(&private)?;
        let kubeconfig =
            write_kubeconfig(&client, &environment.cluster, &name, &private, TOKEN_VALIDITY)
                .await?;
        let disturbance = Disturbance::start(options, &kubeconfig, &name, &private).await?;
        let stack = match database {
            None => None,
            Some(database) => {
                let place = StackPlace { evidence: &evidence, private: &private };
                Some(start_stack(&environment, &journal, database, &place, options).await?)
            }
        };
        let id = id.to_owned();
        let env = Self {
            id,
            run: run.id.clone(),
            environment,
            client,
            journal,
            evidence,
            namespace,
            recorder,
            stack,
            kubeconfig,
            disturbance,
        };
        if let Some(overrides) = &options.provider {
            env.register(PROVIDER, overrides, options.pool.as_ref()).await?;
        }
        Ok(env)
    }

    /// The case's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Everything that all cases share.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The case's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace.name
    }

    /// The cluster, as its administrator: for looking and for breaking things.
    #[must_use]
    pub fn kube(&self) -> Client {
        self.client.clone()
    }

    /// The cluster, as the server under test sees it.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub async fn control_plane_kube(&self) -> Result<Client> {
        client_by(self.control_plane_kubeconfig()).await
    }

    /// The kubeconfig of the server under test: with its permissions, and through the fault proxy
    /// if the case has one.
    #[must_use]
    pub fn control_plane_kubeconfig(&self) -> &Path {
        self.disturbance.kubeconfig().unwrap_or(&self.kubeconfig)
    }

    /// Lets the control plane list the cluster's nodes, as production does and a case does not.
    ///
    /// # Errors
    /// The manifest cannot be read or applied.
    pub async fn allow_nodes(&mut self) -> Result<()> {
        let place = Place {
            client: &self.client,
            environment: &self.environment,
            journal: &self.journal,
            run: &self.run,
            case: &self.id,
        };
        self.namespace.apply(&place, &self.environment.workspace.join(PRODUCTION_RBAC)).await
    }

    /// What was and is in the namespace.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Where evidence is kept; a test may add files.
    #[must_use]
    pub fn evidence(&self) -> &Path {
        &self.evidence
    }

    /// Clients of the case's server.
    ///
    /// # Errors
    /// The case asked for no server.
    pub fn clients(&self) -> Result<&Clients> {
        Ok(&self.stack()?.clients)
    }

    /// The server's process, to be killed and started again.
    ///
    /// # Errors
    /// The case asked for no server.
    pub fn server(&mut self) -> Result<&mut ServerProcess> {
        let id = &self.id;
        self.stack.as_mut().map(|stack| &mut stack.server).ok_or_else(|| no_server(id))
    }

    /// The second replica of the server, on the same database and behind the same proxy.
    ///
    /// # Errors
    /// The case asked for none.
    pub fn replica(&mut self) -> Result<&mut ServerProcess> {
        let id = self.id.clone();
        let replica = self.stack.as_mut().and_then(|stack| stack.replica.as_mut());
        replica.ok_or_else(|| {
            let cause = "it asked for none (CaseOptions::replica)";
            let subject = format!("the second server of case {id}");
            HarnessError::new(FailureClass::Harness, "use", subject, cause)
        })
    }

    /// PEM of the authority of the server's certificate.
    ///
    /// # Errors
    /// The case asked for no TLS.
    pub fn authority(&self) -> Result<&str> {
        let authority = self.stack()?.tls.as_ref().map(|tls| tls.authority.as_str());
        authority.ok_or_else(|| {
            let cause = "it asked for none (CaseOptions::tls)";
            HarnessError::new(
                FailureClass::Harness,
                "use",
                format!("TLS of case {}", self.id),
                cause,
            )
        })
    }

    /// What workers are told to connect to.
    ///
    /// # Errors
    /// The case asked for no server.
    pub fn advertised_address(&self) -> Result<&str> {
        Ok(&self.stack()?.advertised)
    }

    /// The server's log so far.
    ///
    /// # Errors
    /// The case asked for no server, or the log cannot be read.
    pub fn server_log(&self) -> Result<String> {
        let log = self.stack()?.server.log();
        std::fs::read_to_string(&log).infrastructure("read", log.display().to_string())
    }

    /// Rows of the case's database, each as a JSON object.
    ///
    /// # Errors
    /// The query is wrong or the database does not answer.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Value>> {
        postgres::rows(&self.stack()?.database.url, sql).await
    }

    pub(super) fn stack(&self) -> Result<&Stack> {
        self.stack.as_ref().ok_or_else(|| no_server(&self.id))
    }

    /// The configuration of a Kubernetes provider for this case's namespace.
    #[must_use]
    pub fn provider_config(&self) -> Value {
        let host = &self.environment.host;
        json!({
            "namespace": self.namespace.name,
            "kubeconfig": self.control_plane_kubeconfig(),
            "service_account": super::WORKER_ACCOUNT,
            "image": self.environment.worker_image.reference,
            "image_pull_policy": "Never",
            "host_aliases": [{"ip": host.address.to_string(), "hostnames": [host.hostname]}],
            "default_cpu_request": "10m",
            "default_memory_request": "32Mi",
            "default_cpu_limit": "1",
            "default_memory_limit": "128Mi",
            "grace_period_seconds": 5,
            "startup_timeout_seconds": 60,
        })
    }

    /// Registers a provider by `POST /api/providers`; `overrides` go over [`Self::provider_config`].
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn register_provider(
        &self,
        name: &str,
        overrides: &Map<String, Value>,
    ) -> Result<Value> {
        self.register(name, overrides, None).await
    }

    async fn register(
        &self,
        name: &str,
        overrides: &Map<String, Value>,
        pool: Option<&Value>,
    ) -> Result<Value> {
        let mut config = self.provider_config();
        for (field, value) in overrides {
            config[field] = value.clone();
        }
        let mut body = json!({"type": "kubernetes", "name": name, "config": config});
        if let Some(pool) = pool {
            body["pool"] = pool.clone();
        }
        self.clients()?.post("/api/providers", &body).await
    }

    /// Submits a job.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn submit(&self, spec: JobSpec) -> Result<Job> {
        let request = SubmitJobRequest { spec: Some(spec), ..Default::default() };
        let answer = self.clients()?.jobs().submit(request).await;
        let answer = answer.classify(FailureClass::Product, "submit", "a job")?;
        answer.into_inner().job.ok_or_else(|| {
            HarnessError::new(FailureClass::Product, "submit", "a job", "the answer holds no job")
        })
    }

    /// Submits a job that runs a program.
    ///
    /// # Errors
    /// As for [`Self::submit`].
    pub async fn submit_command(&self, argv: &[&str]) -> Result<Job> {
        self.submit(command(argv)).await
    }

    /// Submits a job that runs a script.
    ///
    /// # Errors
    /// As for [`Self::submit`].
    pub async fn submit_script(&self, script: &str) -> Result<Job> {
        let run = Some(job_spec::Run::Script(script.to_owned()));
        self.submit(JobSpec { run, ..Default::default() }).await
    }
}

/// A job that runs a program, to be added to.
#[must_use]
pub fn command(argv: &[&str]) -> JobSpec {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    JobSpec { run: Some(job_spec::Run::Command(Command { argv })), ..Default::default() }
}

/// A client that repeats nothing by itself, so that what one request did can be told.
pub(super) async fn client_by(kubeconfig: &Path) -> Result<Client> {
    let subject = "the control plane's kubeconfig";
    let kubeconfig = Kubeconfig::read_from(kubeconfig).infrastructure("read", subject)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut config = config.infrastructure("use", subject)?;
    config.default_retry = false;
    Client::try_from(config).infrastructure("use", subject)
}

fn no_server(id: &str) -> HarnessError {
    let cause = "it asked for none (CaseOptions::cluster_only)";
    HarnessError::new(FailureClass::Harness, "use", format!("the server of case {id}"), cause)
}

impl std::fmt::Debug for CaseEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaseEnv")
            .field("id", &self.id)
            .field("namespace", &self.namespace.name)
            .finish_non_exhaustive()
    }
}
