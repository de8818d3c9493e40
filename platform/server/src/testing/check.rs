//! `--check` against a real database and a provider in memory.

use std::{ffi::OsString, sync::Arc};

use hodei_core::provider::{HealthStage, Unhealthy};
use serde_json::{Value, json};

use super::{
    fake::{FakeFactory, World},
    postgres::{TestDatabase, create_database},
};
use crate::check::{Report, check};

async fn look(database: &TestDatabase, world: &Arc<World>, more: &[&str]) -> Report {
    let base = ["hodei-server", "--check", "--database-url", &database.url];
    let arguments = base.iter().chain(more).map(OsString::from).collect();
    check(arguments, Arc::new(FakeFactory(world.clone()))).await
}

/// Status and detail of one check.
async fn found(database: &TestDatabase, world: &Arc<World>, name: &str) -> (u8, String, String) {
    let report = look(database, world, &["--check-format", "json"]).await;
    let value: Value = serde_json::from_str(&report.to_string()).unwrap();
    assert_eq!(value["ok"], json!(report.exit_code() == 0), "{value}");
    let findings = value["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == name);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let finding = finding.unwrap_or_else(|| panic!("{name} is not in {value}"));
    (report.exit_code(), text(finding, "status"), text(finding, "detail"))
}

async fn run(database: &TestDatabase, sql: &'static str) {
    sqlx::query(sql).execute(&database.store().await.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_ill_is_seen() {
    let (database, (world, _asked)) = (create_database().await, World::new());
    let (code, status, _) = found(&database, &world, "schema").await;
    assert_eq!((code, status.as_str()), (0, "ok"));
    let (_, status, _) = found(&database, &world, "log store").await;
    assert_eq!(status, "ok");
    let id = "somewhere".parse().unwrap();
    database.store().await.add_provider(&id, "fake", false, &json!({}), None).await.unwrap();
    let (code, status, _) = found(&database, &world, "provider somewhere").await;
    assert_eq!((code, status.as_str()), (0, "ok"));
    let message = "the token has expired".to_owned();
    *world.unhealthy.lock().unwrap() =
        Some(Unhealthy { stage: HealthStage::Authentication, message });
    let (code, status, detail) = found(&database, &world, "provider somewhere").await;
    assert_eq!((code, status.as_str()), (1, "unavailable"));
    assert!(detail.contains("the token has expired"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_schemas() {
    let (database, (world, _asked)) = (create_database().await, World::new());
    for (sql, code, status, part) in [
        ("DELETE FROM _sqlx_migrations WHERE version > 1", 0, "warning", "are applied when"),
        ("UPDATE _sqlx_migrations SET success = false", 2, "wrong", "half applied"),
        (
            "UPDATE _sqlx_migrations SET success = true, checksum = 'x'::bytea",
            2,
            "wrong",
            "is not the one of this server",
        ),
        ("UPDATE _sqlx_migrations SET version = 9999", 2, "wrong", "of a later server"),
        ("DROP TABLE _sqlx_migrations", 0, "warning", "there is none yet"),
    ] {
        run(&database, sql).await;
        let (exit, seen, detail) = found(&database, &world, "schema").await;
        assert_eq!((exit, seen.as_str()), (code, status), "{sql}: {detail}");
        assert!(detail.contains(part), "{sql}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_changes_nothing() {
    let (database, (world, _asked)) = (create_database().await, World::new());
    run(&database, "DROP TABLE _sqlx_migrations").await;
    look(&database, &world, &[]).await;
    let store = database.store().await;
    let seen = sqlx::query("SELECT 1 WHERE to_regclass('_sqlx_migrations') IS NULL");
    assert!(seen.fetch_optional(&store.pool).await.unwrap().is_some());
    assert_eq!(world.count(), 0);
}
