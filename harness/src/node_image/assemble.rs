//! Putting the node image together from its pieces: compiled components, Debian roots, Kind's
//! base files (from Kind's Go module), the system images, and this repository's own files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::docker;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::file_tree::{copy_tree, link};
use crate::node_image::Builder;
use crate::progress::Stage;
use crate::record::Record;
use crate::versions::SystemImage;

/// Writing one image's archive.
const SAVE_DEADLINE: Duration = Duration::from_secs(300);

pub(super) type Components = BTreeMap<String, PathBuf>;

impl Builder<'_> {
    pub(super) async fn assemble_node(
        &self,
        reference: &str,
        record: &mut Record,
        stage: &Stage,
    ) -> Result<()> {
        // The downloads of the roots go on while the compiler has the processor.
        let (node_root, proxy_root) = (self.root("node")?, self.root("kube-proxy")?);
        let roots = async {
            node_root.build(self.paths, self.privilege, stage).await?;
            proxy_root.build(self.paths, self.privilege, stage).await
        };
        let (components, roots) = tokio::join!(self.components(stage), roots);
        roots?;
        let components = components?;
        let node_root = self.root_image(&node_root, record, stage).await?;
        let context = tempfile::Builder::new()
            .prefix(".node-context-")
            .tempdir_in(self.paths.components())
            .infrastructure("make", "the build context")?;
        self.lay_out_files(context.path(), &components, stage).await?;
        self.lay_out_images(context.path(), &components, record, stage).await?;
        let arg = format!("ROOT={node_root}");
        let log = self.paths.log("node-image");
        self.engine.build(context.path(), reference, &["--build-arg", &arg], &log, stage).await
    }

    async fn components(&self, stage: &Stage) -> Result<Components> {
        let mut built = Components::new();
        for component in self.versions.components(self.kubernetes) {
            let directory = self.go.build(self.paths, &component, stage).await?;
            built.insert(component.module, directory);
        }
        Ok(built)
    }

    /// `files/` of the context: what the Dockerfile lays over the root.
    async fn lay_out_files(
        &self,
        context: &Path,
        components: &Components,
        stage: &Stage,
    ) -> Result<()> {
        let files = context.join("files");
        let own = self.paths.workspace().join("deploy/kind/node-image");
        let copied = |result: std::io::Result<()>| {
            result.classify(FailureClass::Image, "lay out", "the node's files")
        };
        copied(copy_tree(&self.kind_base_files(stage).await?, &files))?;
        copied(copy_tree(&own.join("files"), &files))?;
        let install = |component: &str, names: &[&str], to: &str| {
            names.iter().try_for_each(|name| {
                copied(link(&piece(components, component)?.join(name), &files.join(to).join(name)))
            })
        };
        install("kubernetes", &["kubeadm", "kubelet", "kubectl"], "usr/bin")?;
        let containerd = ["containerd", "ctr", "containerd-shim-runc-v2"];
        install("containerd", &containerd, "usr/local/bin")?;
        let plugins = ["bridge", "ptp", "loopback", "host-local", "portmap"];
        install("cni-plugins", &plugins, "opt/cni/bin")?;
        let version = format!("v{}", self.kubernetes.version);
        copied(std::fs::write(files.join("kind/version"), version))?;
        copied(std::fs::copy(own.join("Dockerfile"), context.join("Dockerfile")).map(drop))
    }

    /// Kind's own base files, from its module at the pinned version.
    async fn kind_base_files(&self, stage: &Stage) -> Result<PathBuf> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Module {
            dir: PathBuf,
        }
        let module = format!("sigs.k8s.io/kind@{}", self.versions.kind);
        let download = self.go.command(self.paths).args(["mod", "download", "-json", &module]);
        let subject = format!("module {module}");
        let download = download.directory(self.paths.state()).run(stage).await;
        let output = download.classify(FailureClass::Image, "download", &subject)?;
        let module: Module =
            serde_json::from_str(&output.stdout).classify(FailureClass::Image, "find", subject)?;
        Ok(module.dir.join("images/base/files"))
    }

    /// `images/` of the context: an archive for each system image.
    async fn lay_out_images(
        &self,
        context: &Path,
        components: &Components,
        record: &mut Record,
        stage: &Stage,
    ) -> Result<()> {
        let images = context.join("images");
        std::fs::create_dir(&images).classify(FailureClass::Image, "make", "images/")?;
        for image in &self.versions.images(self.kubernetes) {
            let base = match &image.root {
                Some(name) => self.root_image(&self.root(name)?, record, stage).await?,
                None => "scratch".to_owned(),
            };
            self.system_image(image, &base, components, &images, stage).await?;
        }
        Ok(())
    }

    pub(super) async fn system_image(
        &self,
        image: &SystemImage,
        base: &str,
        components: &Components,
        archives: &Path,
        stage: &Stage,
    ) -> Result<()> {
        let binary = &image.binary;
        let context = tempfile::Builder::new()
            .prefix(".image-context-")
            .tempdir_in(self.paths.components())
            .infrastructure("make", "a build context")?;
        let dockerfile = system_dockerfile(base, binary);
        let lay_out = || -> std::io::Result<()> {
            std::fs::write(context.path().join("Dockerfile"), dockerfile)?;
            Ok(())
        };
        lay_out().classify(FailureClass::Image, "lay out", binary)?;
        link(&piece(components, &image.component)?.join(binary), &context.path().join(binary))
            .classify(FailureClass::Image, "lay out", binary)?;
        let tags: Vec<&str> =
            image.references[1..].iter().flat_map(|name| ["--tag", name.as_str()]).collect();
        let log = self.paths.log("node-image");
        self.engine.build(context.path(), &image.references[0], &tags, &log, stage).await?;
        self.take_out(&image.references, &archives.join(format!("{binary}.tar")), stage).await
    }

    /// Moves an image, by all of its names, from the engine into an archive.
    pub(super) async fn take_out(
        &self,
        references: &[String],
        archive: &Path,
        stage: &Stage,
    ) -> Result<()> {
        let subject = || references.first().cloned().unwrap_or_default();
        let save = docker(["save", "--output"]).arg(archive).args(references);
        let saved = save.deadline(SAVE_DEADLINE).run(stage).await;
        saved.classify(FailureClass::Image, "save", subject())?;
        // They are in the node from here on; the engine need not keep them.
        let remove = docker(["image", "rm", "--force"]).args(references).run(stage).await;
        remove.classify(FailureClass::Image, "clear away", subject())?;
        Ok(())
    }
}

fn system_dockerfile(base: &str, binary: &str) -> String {
    // Where there is nothing else, the binary's directory is all of PATH.
    let path = if base == "scratch" { "ENV PATH=/usr/local/bin\n" } else { "" };
    format!(
        "FROM {base}\nCOPY {binary} /usr/local/bin/{binary}\n{path}\
         ENTRYPOINT [\"/usr/local/bin/{binary}\"]\n"
    )
}

fn piece<'a>(components: &'a Components, name: &str) -> Result<&'a PathBuf> {
    components.get(name).ok_or_else(|| {
        HarnessError::new(FailureClass::Harness, "find", name, "no such component was built")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_image_has_nothing_but_its_binary() {
        insta::assert_snapshot!(system_dockerfile("scratch", "etcd"), @r#"
        FROM scratch
        COPY etcd /usr/local/bin/etcd
        ENV PATH=/usr/local/bin
        ENTRYPOINT ["/usr/local/bin/etcd"]
        "#);
    }
}
