//! Pieces of images: root file systems and compiled Go modules, each made once per hash of its
//! inputs and kept in the cache, so that an interrupted build goes on where it stopped.

mod edited;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::Inputs;
use crate::failure::{Classify, FailureClass, Result};
use crate::paths::Paths;
use crate::privilege::Privilege;
use crate::process::Command;
use crate::progress::Stage;
use crate::versions::GoComponent;

/// Compiling the kubelet on a small machine takes minutes.
const GO_DEADLINE: Duration = Duration::from_secs(3600);
/// Downloading and unpacking a Debian root.
const ROOT_DEADLINE: Duration = Duration::from_secs(1200);
/// Changes when the steps here make something else of the same inputs.
const RECIPE: &str = "1";

/// A piece by name and hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Name, as shown.
    pub name: String,
    /// Hash of its inputs.
    pub tag: String,
}

impl Component {
    /// Where its output is or will be.
    #[must_use]
    pub fn directory(&self, paths: &Paths) -> PathBuf {
        paths.components().join(format!("{}-{}", self.name, self.tag))
    }

    async fn ensure<F>(&self, paths: &Paths, stage: &Stage, build: F) -> Result<PathBuf>
    where
        F: AsyncFnOnce(&Path) -> Result<()>,
    {
        let done = self.directory(paths);
        if done.is_dir() {
            return Ok(done);
        }
        stage.line(&self.name);
        let subject = || format!("component {}", self.name);
        std::fs::create_dir_all(paths.components()).infrastructure("make", subject())?;
        let partial = tempfile::Builder::new()
            .prefix(&format!(".{}-", self.name))
            .tempdir_in(paths.components())
            .infrastructure("make a place for", subject())?;
        build(partial.path()).await?;
        std::fs::rename(partial.path(), &done).infrastructure("keep", subject())?;
        // The directory has moved, so there is nothing left to remove.
        let _moved = partial.keep();
        tracing::debug!(component = self.name, tag = self.tag, "built");
        Ok(done)
    }
}

/// The Go toolchain: its version is an input of everything that it compiles.
#[derive(Debug, Clone)]
pub struct Go {
    version: String,
    flags: String,
}

impl Go {
    /// The toolchain in PATH.
    ///
    /// # Errors
    /// There is none.
    pub async fn find(paths: &Paths, stage: &Stage) -> Result<Self> {
        let env = Command::new("go").args(["env", "GOVERSION", "GOFLAGS"]);
        let output =
            env.directory(paths.state()).run(stage).await.infrastructure("find", "Go").map_err(
                |error| {
                    error.with_help("install a Go toolchain (1.24 or newer) and put it in PATH")
                },
            )?;
        let mut lines = output.stdout.lines().map(str::to_owned);
        let mut next = || lines.next().unwrap_or_default();
        let (version, flags) = (next(), next());
        Ok(Self { version, flags })
    }

    /// A toolchain that only has a version.
    #[cfg(test)]
    pub(crate) fn imaginary() -> Self {
        Self { version: "go1.0".into(), flags: String::new() }
    }

    /// A `go` command with the caches of this tool, so that a user's stay untouched.
    #[must_use]
    pub fn command(&self, paths: &Paths) -> Command {
        let cache = paths.go_cache();
        Command::new("go")
            .env("GOCACHE", cache.join("build"))
            .env("GOMODCACHE", cache.join("mod"))
            .env("GOFLAGS", format!("{} -modcacherw", self.flags).trim())
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .deadline(GO_DEADLINE)
            .log_to(paths.log("go"))
    }

    /// The module of `component` as a piece.
    ///
    /// # Errors
    /// Its directory cannot be read.
    pub fn component(&self, paths: &Paths, component: &GoComponent) -> Result<Component> {
        let inputs = Inputs::new()
            .add("recipe", RECIPE)
            .add("go", &self.version)
            .add("arch", std::env::consts::ARCH)
            .add("ldflags", &component.ldflags)
            .add("rename", format!("{:?}", component.rename))
            .add_path(&module_directory(paths, component.directory()))?;
        // Only where there are some, so that the pieces of the plain image keep their tags.
        let inputs = match &component.edited {
            Some(edited) => inputs.add("edited", format!("{edited:?}")),
            None => inputs,
        };
        let inputs = match component.tags.as_str() {
            "" => inputs,
            tags => inputs.add("tags", tags),
        };
        Ok(Component { name: component.module.clone(), tag: inputs.tag() })
    }

    /// Where the source of a module is that the one of `component` requires; downloaded if need be,
    /// and verified by its go.sum.
    ///
    /// # Errors
    /// The download failed, or the module is not required.
    pub async fn source(
        &self,
        paths: &Paths,
        component: &GoComponent,
        module: &str,
        stage: &Stage,
    ) -> Result<PathBuf> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Module {
            dir: PathBuf,
        }
        let subject = || format!("module {module}");
        let download = self.command(paths).args(["mod", "download", "-json", module]);
        let download = download.directory(module_directory(paths, &component.module));
        let output =
            download.run(stage).await.classify(FailureClass::Image, "download", subject())?;
        let found: Module = serde_json::from_str(&output.stdout).classify(
            FailureClass::Image,
            "find",
            subject(),
        )?;
        Ok(found.dir)
    }

    /// Compiles every tool of the module, statically; returns the directory of binaries.
    ///
    /// # Errors
    /// A download or the compiler failed.
    pub async fn build(
        &self,
        paths: &Paths,
        component: &GoComponent,
        stage: &Stage,
    ) -> Result<PathBuf> {
        let piece = self.component(paths, component)?;
        piece
            .ensure(paths, stage, async |out| {
                let committed = module_directory(paths, component.directory());
                let copy = match &component.edited {
                    Some(edited) => Some(self.edit(paths, component, edited, stage).await?),
                    None => None,
                };
                let module = copy.as_ref().map_or(committed, edited::Copy::module);
                let list = self.command(paths).args(["list", "-f", "{{.ImportPath}}", "tool"]);
                let tools = list.directory(&module).run(stage).await.classify(
                    FailureClass::Image,
                    "list the tools of",
                    &component.module,
                )?;
                // A module without tools is the program itself.
                let mut packages: Vec<&str> = tools.stdout.lines().collect();
                if packages.is_empty() {
                    packages.push(".");
                }
                let ldflags = format!("-s -w {}", component.ldflags);
                for package in packages {
                    let name = package.rsplit('/').next().unwrap_or(package);
                    stage.line(&format!("compiling {} {name}", component.module));
                    let build = self
                        .command(paths)
                        .args(["build", "-trimpath", "-ldflags", ldflags.trim()])
                        .args(["-tags", &component.tags, "-o"])
                        .arg(format!("{}/", out.display()))
                        .arg(package);
                    let subject = format!("{package} (from {})", component.module);
                    build.directory(&module).run(stage).await.classify(
                        FailureClass::Image,
                        "compile",
                        subject,
                    )?;
                }
                for (from, to) in &component.rename {
                    std::fs::rename(out.join(from), out.join(to)).classify(
                        FailureClass::Image,
                        "rename",
                        from,
                    )?;
                }
                Ok(())
            })
            .await
    }
}

fn module_directory(paths: &Paths, directory: &str) -> PathBuf {
    paths.workspace().join("deploy/kind/node-image").join(directory)
}

/// A Debian root file system made by mmdebstrap.
#[derive(Debug, Clone)]
pub struct Root {
    suite: String,
    packages: Vec<String>,
    piece: Component,
}

impl Root {
    /// The root called `name` of `suite` with `packages` beside the minimum.
    #[must_use]
    pub fn new(name: &str, suite: &str, packages: &[String]) -> Self {
        let tag = Inputs::new()
            .add("recipe", RECIPE)
            .add("arch", std::env::consts::ARCH)
            .add("suite", suite)
            .add("packages", packages.join(" "))
            .tag();
        let piece = Component { name: format!("root-{name}"), tag };
        Self { suite: suite.to_owned(), packages: packages.to_vec(), piece }
    }

    /// The image it is imported as.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("hodei-{}:{}", self.piece.name, self.piece.tag)
    }

    /// The hash of its inputs.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.piece.tag
    }

    /// Makes it; returns the tar archive.
    ///
    /// # Errors
    /// mmdebstrap is absent or failed.
    pub async fn build(
        &self,
        paths: &Paths,
        privilege: Privilege,
        stage: &Stage,
    ) -> Result<PathBuf> {
        let directory = self
            .piece
            .ensure(paths, stage, async |out| {
                let target = out.join("root.tar");
                stage.line(&format!("mmdebstrap {} ({})", self.suite, self.piece.name));
                let make = privilege
                    .command("mmdebstrap")?
                    .args(["--variant=minbase", "--quiet"])
                    .arg("--aptopt=Acquire::Languages \"none\"")
                    .arg("--aptopt=Acquire::Retries \"3\"")
                    .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
                    .arg("--dpkgopt=path-exclude=/usr/share/man/*")
                    .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
                    .arg(format!("--include={}", self.packages.join(",")))
                    .arg(&self.suite)
                    .arg(&target)
                    .deadline(ROOT_DEADLINE)
                    .log_to(paths.log(&self.piece.name));
                let subject = format!("a {} root file system", self.suite);
                make.run(stage).await.classify(FailureClass::Image, "make", subject)?;
                Ok(())
            })
            .await?;
        Ok(directory.join("root.tar"))
    }
}
