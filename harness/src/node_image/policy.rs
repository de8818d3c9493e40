//! The node image that enforces network policies: the plain one from packages, and Cilium on top
//! of it. Its inputs are in `deploy/kind/network-policy` and in no hash but its own.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::Builder;
use super::assemble::Components;
use crate::component::Root;
use crate::digest::Inputs;
use crate::failure::{Classify, FailureClass, Result};
use crate::file_tree::{copy_tree, link};
use crate::process::Command;
use crate::progress::Stage;
use crate::record::Record;
use crate::versions::{GoComponent, SystemImage};

/// What is built, as committed.
const TEXT: &str = include_str!("../../../deploy/kind/network-policy/versions.toml");
/// Changes when the steps here make something else of the same inputs.
const RECIPE: &str = "1";
/// The repository of the image: another than that of the plain one, whose successors take its place.
pub(super) const NAME: &str = "hodei-kind-node-policy";
/// Rendering a chart.
const RENDER_DEADLINE: Duration = Duration::from_secs(60);
/// The operator's program; the chart adds `-generic` to the name.
const OPERATOR: &str = "cilium-operator-generic";
/// The agent's programs, and where they are in its image.
const PROGRAMS: [(&str, &str); 5] = [
    ("cilium-agent", "usr/bin"),
    ("cilium-dbg", "usr/bin"),
    ("cilium-mount", "usr/bin"),
    ("cilium-sysctlfix", "usr/bin"),
    ("cilium-cni", "opt/cni/bin"),
];
/// What it takes from Cilium's module as it is, and where to.
const SOURCES: [(&str, &str); 4] = [
    ("bpf", "var/lib/cilium/bpf"),
    ("images/cilium/init-container.sh", "init-container.sh"),
    ("plugins/cilium-cni/install-plugin.sh", "install-plugin.sh"),
    ("plugins/cilium-cni/cni-uninstall.sh", "cni-uninstall.sh"),
];

/// `deploy/kind/network-policy/versions.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    packages: Vec<String>,
    agent: String,
    operator: String,
    cilium: GoComponent,
    helm: GoComponent,
}

impl Policy {
    fn load() -> Result<Self> {
        let subject = "deploy/kind/network-policy/versions.toml";
        toml::from_str(TEXT).classify(FailureClass::Harness, "read", subject)
    }
}

impl Builder<'_> {
    /// The tag of the image that enforces policies: a hash of the plain image's and of what is added.
    ///
    /// # Errors
    /// The committed inputs cannot be read.
    pub fn policy_reference(&self) -> Result<String> {
        let policy = Policy::load()?;
        let mut hash = Inputs::new()
            .add("recipe", RECIPE)
            .add("plain", self.packages_reference()?)
            .add("versions", TEXT)
            .add("pods", &self.versions.pod_subnet)
            .add_path(&self.policy_inputs())?
            .add("root", self.agent_root(&policy).tag());
        for component in [&policy.cilium, &policy.helm] {
            hash = hash.add(&component.module, self.go.component(self.paths, component)?.tag);
        }
        Ok(format!("{NAME}:v{}-{}", self.kubernetes.version, hash.tag()))
    }

    /// Puts Cilium on top of the image `plain`.
    pub(super) async fn assemble_policy(
        &self,
        plain: &str,
        reference: &str,
        record: &mut Record,
        stage: &Stage,
    ) -> Result<()> {
        let policy = Policy::load()?;
        // The downloads of the root go on while the compiler has the processor.
        let root = self.agent_root(&policy);
        let compiled = async {
            let cilium = self.go.build(self.paths, &policy.cilium, stage).await?;
            Ok((cilium, self.go.build(self.paths, &policy.helm, stage).await?))
        };
        let (compiled, built) =
            tokio::join!(compiled, root.build(self.paths, self.privilege, stage));
        built?;
        let (cilium, helm) = compiled?;
        let module = "github.com/cilium/cilium";
        let source = self.go.source(self.paths, &policy.cilium, module, stage).await?;
        let context = self.policy_context()?;
        let images = context.path().join("images");
        std::fs::create_dir(&images).classify(FailureClass::Image, "make", "images/")?;
        let root = self.root_image(&root, record, stage).await?;
        self.agent_image(&policy, &root, (&cilium, &source), &images, stage).await?;
        let operator = SystemImage {
            references: vec![policy.operator.clone()],
            component: policy.cilium.module.clone(),
            binary: OPERATOR.into(),
            root: None,
        };
        let components = Components::from([(policy.cilium.module.clone(), cilium.clone())]);
        self.system_image(&operator, "scratch", &components, &images, stage).await?;
        let chart = source.join("install/kubernetes/cilium");
        let manifest = self.render(&policy, &helm.join("helm"), &chart, stage).await?;
        let laid_out = std::fs::write(context.path().join("default-cni.yaml"), manifest);
        laid_out.classify(FailureClass::Image, "lay out", "the network's manifest")?;
        self.policy_file("Dockerfile", &context.path().join("Dockerfile"))?;
        let arg = format!("NODE={plain}");
        let log = self.paths.log("node-image");
        self.engine.build(context.path(), reference, &["--build-arg", &arg], &log, stage).await
    }

    async fn agent_image(
        &self,
        policy: &Policy,
        root: &str,
        (compiled, source): (&Path, &Path),
        archives: &Path,
        stage: &Stage,
    ) -> Result<()> {
        let context = self.policy_context()?;
        let files = context.path().join("files");
        let lay_out = || -> std::io::Result<()> {
            for (program, directory) in PROGRAMS {
                link(&compiled.join(program), &files.join(directory).join(program))?;
            }
            for (from, to) in SOURCES {
                copy_tree(&source.join(from), &files.join(to))?;
            }
            std::fs::create_dir_all(files.join("usr/local/sbin"))
        };
        lay_out().classify(FailureClass::Image, "lay out", "Cilium's agent")?;
        self.policy_file("bpftool.sh", &files.join("usr/local/sbin/bpftool"))?;
        self.policy_file("agent.Dockerfile", &context.path().join("Dockerfile"))?;
        let arg = format!("ROOT={root}");
        let log = self.paths.log("node-image");
        let args = ["--build-arg", &arg];
        self.engine.build(context.path(), &policy.agent, &args, &log, stage).await?;
        let references = std::slice::from_ref(&policy.agent);
        self.take_out(references, &archives.join("cilium.tar"), stage).await
    }

    /// The chart's objects, for the addresses that pods have here.
    async fn render(
        &self,
        policy: &Policy,
        helm: &Path,
        chart: &Path,
        stage: &Stage,
    ) -> Result<String> {
        let home = self.policy_context()?;
        let values = self.policy_inputs().join("values.yaml");
        let command = Command::new(helm)
            .args(["template", "cilium"])
            .arg(chart)
            .args(["--namespace", "kube-system", "--kube-version", &self.kubernetes.version])
            .arg("--values")
            .arg(values)
            .args(["--set", &format!("ipv4NativeRoutingCIDR={}", self.versions.pod_subnet)])
            .args(["--set", &format!("image.override={}", policy.agent)])
            .args(["--set", &format!("operator.image.override={}", policy.operator)])
            .env("HELM_CACHE_HOME", home.path())
            .env("HELM_CONFIG_HOME", home.path())
            .env("HELM_DATA_HOME", home.path())
            .deadline(RENDER_DEADLINE);
        let rendered = command.run(stage).await;
        Ok(rendered.classify(FailureClass::Image, "render", "Cilium's chart")?.stdout)
    }

    fn agent_root(&self, policy: &Policy) -> Root {
        Root::new("cilium", &self.versions.suite, &policy.packages)
    }

    fn policy_inputs(&self) -> std::path::PathBuf {
        self.paths.workspace().join("deploy/kind/network-policy")
    }

    fn policy_file(&self, name: &str, to: &Path) -> Result<()> {
        let copied = copy_tree(&self.policy_inputs().join(name), to);
        copied.classify(FailureClass::Image, "lay out", name)
    }

    fn policy_context(&self) -> Result<tempfile::TempDir> {
        let made =
            tempfile::Builder::new().prefix(".policy-context-").tempdir_in(self.paths.components());
        made.infrastructure("make", "a build context")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Go;
    use crate::engine::Engine;
    use crate::paths::Paths;
    use crate::privilege::Privilege;
    use crate::versions::Versions;

    #[test]
    fn what_enforces_policies_is_in_no_hash_but_its_own() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let inputs = dir.path().join("deploy/kind");
        std::fs::create_dir_all(dir.path().join("deploy")).unwrap();
        copy_tree(&checkout.join("deploy/kind"), &inputs).unwrap();
        let paths = Paths::new("/state".into(), "/cache".into(), dir.path().into());
        let (versions, go) = (Versions::load().unwrap(), Go::imaginary());
        let text = String::new;
        let engine = Engine { version: text(), data_root: text(), default_runtime: text() };
        let (paths, versions, engine, go) = (&paths, &versions, &engine, &go);
        let (kubernetes, privilege) = (versions.default_kubernetes().unwrap(), Privilege::Root);
        let builder = Builder { paths, versions, kubernetes, engine, go, privilege };
        let tags = || (builder.packages_reference().unwrap(), builder.policy_reference().unwrap());
        let (plain, policy) = tags();
        assert!(plain.starts_with("hodei-kind-node:") && policy.starts_with(NAME), "{policy}");
        let mut seen = vec![policy];
        let own = ["network-policy/values.yaml", "network-policy/bpftool.sh"];
        let modules = ["node-image/cilium/go.sum", "node-image/helm/go.sum"];
        for file in own.into_iter().chain(modules) {
            std::fs::write(inputs.join(file), file).unwrap();
            let (same, other) = tags();
            assert_eq!(same, plain, "{file}");
            assert!(!seen.contains(&other), "{file}");
            seen.push(other);
        }
        std::fs::write(inputs.join("node-image/Dockerfile"), "FROM scratch").unwrap();
        let (other_plain, other) = tags();
        assert!(other_plain != plain && !seen.contains(&other), "it is made of the plain one");
    }

    #[test]
    fn the_committed_file_is_sound() {
        let policy = Policy::load().unwrap();
        let required = include_str!("../../../deploy/kind/node-image/cilium/go.mod");
        for image in [&policy.agent, &policy.operator] {
            let version = image.rsplit(':').next().unwrap();
            assert!(required.contains(&format!("github.com/cilium/cilium {version} ")), "{image}");
        }
        let renamed: Vec<_> = policy.cilium.rename.values().map(String::as_str).collect();
        let packaged =
            |name: &str| required.contains(&format!("github.com/cilium/cilium/{name}\n"));
        for (name, _) in PROGRAMS.into_iter().chain([(OPERATOR, "")]) {
            let built = packaged(name) || packaged(&format!("plugins/{name}"));
            assert!(renamed.contains(&name) || built, "{name} is not built");
        }
    }
}
