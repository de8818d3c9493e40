//! The Postgres image that testcontainers starts: the official one where a registry answers,
//! else Debian's server on a Debian root with an entrypoint that takes the same environment.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Inputs;
use crate::failure::{Classify, FailureClass, Result};
use crate::node_image::{Builder, Source, pull};
use crate::progress::Stage;
use crate::record::Record;

/// An image by name and tag, as testcontainers wants them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresImage {
    /// The repository.
    pub name: String,
    /// The tag.
    pub tag: String,
}

impl PostgresImage {
    /// `name:tag`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }
}

/// The image that is to be had, there or not.
///
/// # Errors
/// The committed inputs cannot be read.
pub fn wanted(builder: &Builder<'_>, source: Source) -> Result<PostgresImage> {
    Ok(match source {
        Source::Registry => {
            let published = &builder.versions.published_postgres;
            let (name, tag) = published.split_once(':').unwrap_or((published, "latest"));
            PostgresImage { name: name.to_owned(), tag: tag.to_owned() }
        }
        Source::Packages => {
            let root = builder.root("postgres")?;
            let hash = Inputs::new().add("root", root.tag()).add_path(&inputs(builder))?;
            PostgresImage { name: "hodei-postgres".into(), tag: hash.tag() }
        }
    })
}

fn inputs(builder: &Builder<'_>) -> PathBuf {
    builder.paths.workspace().join("deploy/kind/postgres")
}

/// Pulls or builds the image if the engine does not have it.
///
/// # Errors
/// It can be neither pulled nor built.
pub async fn postgres_image(
    builder: &Builder<'_>,
    source: Source,
    record: &mut Record,
    stage: &Stage,
) -> Result<PostgresImage> {
    let image = wanted(builder, source)?;
    let reference = image.reference();
    if builder.engine.image_id(&reference, stage).await?.is_some() {
        stage.note(format!("{reference}, there already"));
        return Ok(image);
    }
    record.begin_image(&reference)?;
    if source == Source::Registry {
        pull(&reference, stage).await?;
    } else {
        let base = builder.root_image(&builder.root("postgres")?, record, stage).await?;
        let context = tempfile::tempdir();
        let context = context.classify(FailureClass::Image, "make", "a build context")?;
        for file in ["Dockerfile", "entrypoint.sh"] {
            let copied = std::fs::copy(inputs(builder).join(file), context.path().join(file));
            copied.classify(FailureClass::Image, "lay out", &reference)?;
        }
        let arg = format!("ROOT={base}");
        let log = builder.paths.log("postgres-image");
        let args = ["--build-arg", &arg];
        builder.engine.build(context.path(), &reference, &args, &log, stage).await?;
    }
    record.finish_image(&reference)?;
    stage.note(format!("{reference}, made"));
    Ok(image)
}
