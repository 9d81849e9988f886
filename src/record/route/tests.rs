use super::*;
use crate::record::{manifest::Status, parquet::TableRow as _};

fn request(request_id: i64) -> RouteRequestRow {
    RouteRequestRow {
        pool: "mix".to_owned(),
        policy: "random".to_owned(),
        request_id,
        finished_ns: (request_id % 2 == 0).then_some(7),
        breaks: [None, Some(false), Some(true)][request_id as usize % 3],
        harm_upper: Some(0.25),
        err: (request_id == 3).then(|| "no engine".to_owned()),
        ..RouteRequestRow::default()
    }
}

fn manifest() -> RouteManifest {
    RouteManifest::begun(
        RouteKind::Simulated,
        "route-x",
        "name = \"route-x\"",
        5,
        "2026-11-24T01:30:00Z".to_owned(),
    )
}

#[test]
fn rows_come_back_from_their_parts() {
    let parent = tempfile::tempdir().unwrap();
    let mut manifest = manifest();
    let mut log =
        RouteLog::create(parent.path(), "20261124T013000Z", "abc", &mut manifest).unwrap();
    log.requests((0..3).map(request)).unwrap();
    log.flush().unwrap();
    log.requests((3..5).map(request)).unwrap();
    let engine =
        RouteEngineRow { engine: "a".to_owned(), busy_ns: Some(3), ..RouteEngineRow::default() };
    log.engines([engine.clone()]).unwrap();
    let world = RouteWorldRow { rate_per_s: Some(1.5), ..RouteWorldRow::default() };
    log.worlds([world.clone()]).unwrap();
    manifest.status = Status::Complete;
    let path = log.finish(&manifest).unwrap();
    assert!(path.ends_with("20261124T013000Z-route-x-abc"));
    let dir = RouteDir::open(&path).unwrap();
    assert_eq!(dir.manifest, manifest);
    assert_eq!(dir.parts::<RouteRequestRow>().unwrap().len(), 2);
    assert_eq!(dir.rows::<RouteRequestRow>().unwrap(), (0..5).map(request).collect::<Vec<_>>());
    assert_eq!(dir.rows::<RouteEngineRow>().unwrap(), [engine]);
    assert_eq!(dir.rows::<RouteWorldRow>().unwrap(), [world]);
}

#[test]
fn a_run_that_was_killed_keeps_what_it_had_written() {
    let parent = tempfile::tempdir().unwrap();
    let mut log = RouteLog::create(parent.path(), "s", "abc", &mut manifest()).unwrap();
    log.requests([request(0)]).unwrap();
    log.flush().unwrap();
    log.requests([request(1)]).unwrap();
    let path = log.path().to_owned();
    drop(log);
    std::fs::write(path.join("route_requests-000001.parquet.tmp"), b"half").unwrap();
    let dir = RouteDir::open(&path).unwrap();
    assert_eq!(dir.manifest.status, Status::Running);
    assert_eq!(dir.rows::<RouteRequestRow>().unwrap(), [request(0)]);
}

#[test]
fn what_is_no_folder_of_a_router_is_told() {
    let empty = tempfile::tempdir().unwrap();
    let said = format!("{:#}", RouteDir::open(empty.path()).unwrap_err());
    assert!(said.contains("hint: pass one made by `kvbench route simulate`"), "{said}");
    std::fs::write(empty.path().join(ROUTE_FILE), r#"{"schema_version": 99}"#).unwrap();
    let said = format!("{:#}", RouteDir::open(empty.path()).unwrap_err());
    assert!(said.contains("expected schema version 2, got 99"), "{said}");
}

#[test]
fn no_folder_is_written_twice() {
    let parent = tempfile::tempdir().unwrap();
    let _held = RouteLog::create(parent.path(), "s", "abc", &mut manifest()).unwrap();
    let said =
        format!("{:#}", RouteLog::create(parent.path(), "s", "abc", &mut manifest()).unwrap_err());
    assert!(said.contains("expected a folder that does not exist yet"), "{said}");
}

#[test]
fn columns_are_those_other_tools_rely_on() {
    let first = ["pool", "trace", "load", "skill", "policy", "seed"];
    assert_eq!(RouteRequestRow::COLUMNS[..6], first);
    assert_eq!(RouteEngineRow::COLUMNS[..6], first);
    assert_eq!(RouteRequestRow::COLUMNS.len(), 29);
}
