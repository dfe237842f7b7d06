use super::*;
use std::time::Duration;

use crate::cluster::Source;
use crate::cluster::test_sink::Recorder;

fn folder(dir: &Path) -> (Folder, Arc<Recorder>, Arc<Status>) {
    let wanted = Wanted::default();
    let status = Arc::new(Status::new(&Source::InCluster, &wanted));
    let sink = Arc::new(Recorder::default());
    (Folder::new(dir.into(), &wanted, sink.clone(), status.clone(), Arc::default()), sink, status)
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "kind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: \"{ip}\"}}\n---\n"
    )
}

#[test]
fn namespaces_are_implied_and_files_of_other_names_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("more")).unwrap();
    fs::write(dir.path().join("more/a.yaml"), service("web", "10.0.0.1")).unwrap();
    fs::write(dir.path().join("more/.b.yaml"), service("hidden", "10.0.0.2")).unwrap();
    fs::write(dir.path().join("notes.txt"), service("notes", "10.0.0.3")).unwrap();
    let (mut folder, sink, status) = folder(dir.path());
    assert_eq!(folder.scan().len(), 2);
    assert_eq!(sink.names(), ["Namespace /shop", "Service shop/web"]);
    assert!(status.is_synced() && status.is_live());
}

#[test]
fn a_broken_file_keeps_its_last_good_objects() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, service("web", "10.0.0.1") + &service("db", "None")).unwrap();
    let (mut folder, sink, _) = folder(dir.path());
    folder.scan();
    let good = sink.names();
    fs::write(&file, "kind: [").unwrap();
    folder.scan();
    assert_eq!(sink.names(), good);
    // One bad object: the others of the file change.
    fs::write(&file, service("web", "10.0.0.256") + &service("cache", "None")).unwrap();
    folder.scan();
    assert_eq!(sink.names(), ["Namespace /shop", "Service shop/cache", "Service shop/web"]);
    fs::remove_file(&file).unwrap();
    folder.scan();
    assert_eq!(sink.names(), [""; 0]);
}

#[test]
fn the_first_of_two_files_wins() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), service("web", "None")).unwrap();
    fs::write(dir.path().join("b.yaml"), service("web", "10.0.0.1")).unwrap();
    let (mut folder, sink, _) = folder(dir.path());
    folder.scan();
    let is_headless = |object: Object| matches!(object, Object::Service(s) if s.kind == crate::cluster::object::ServiceKind::Headless);
    let mut headless = 0;
    sink.walk(&mut |object| headless += usize::from(is_headless(object)));
    assert_eq!(headless, 1);
}

#[test]
fn a_folder_that_is_gone_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let objects = dir.path().join("objects");
    fs::create_dir(&objects).unwrap();
    fs::write(objects.join("a.yaml"), service("web", "None")).unwrap();
    let (mut folder, sink, status) = folder(&objects);
    folder.scan();
    fs::rename(&objects, dir.path().join("elsewhere")).unwrap();
    folder.scan();
    assert_eq!(sink.names().len(), 2);
    assert!(!status.is_live());
    assert!(status.last_error().unwrap().1.starts_with("cannot read the folder "));
    fs::rename(dir.path().join("elsewhere"), &objects).unwrap();
    folder.scan();
    assert!(status.is_live());
}

#[tokio::test]
async fn a_change_is_seen_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, sink, status) = folder(dir.path());
    let task = tokio::spawn(folder.run());
    assert!(status.wait_synced(Duration::from_secs(5)).await);
    let edited = std::time::Instant::now();
    fs::write(dir.path().join("a.yaml"), service("web", "None")).unwrap();
    while sink.names().len() < 2 {
        assert!(edited.elapsed() < Duration::from_secs(1), "not seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    task.abort();
}

#[test]
fn an_object_that_loses_its_name_loses_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let pod = |phase: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: job, namespace: shop}}\nstatus: {{podIP: 10.1.0.1, phase: {phase}}}\n---\n"
        )
    };
    let slice = |label: &str| {
        format!(
            "kind: EndpointSlice\nmetadata: {{name: s, namespace: shop, labels: {{{label}: web}}}}\n\
             addressType: IPv4\nendpoints: [{{addresses: [10.1.0.2]}}]\n---\n"
        )
    };
    let write = |phase: &str, label: &str, service: &str| {
        fs::write(&file, pod(phase) + &slice(label) + service).unwrap();
    };
    let wanted = Wanted { pods: crate::cluster::spec::Pods::All, ..Wanted::default() };
    let status = Arc::new(Status::new(&Source::InCluster, &wanted));
    let sink = Arc::new(Recorder::default());
    let mut folder = Folder::new(dir.path().into(), &wanted, sink.clone(), status, Arc::default());
    write("Running", "kubernetes.io/service-name", &service("web", "10.0.0.1"));
    folder.scan();
    let all = ["EndpointSlice shop/s", "Namespace /shop", "Pod shop/job", "Service shop/web"];
    assert_eq!(sink.names(), all);
    let external = "kind: Service\nmetadata: {name: web, namespace: shop}\n\
        spec: {type: ExternalName, externalName: 10.0.0.9}\n";
    fs::write(dir.path().join("b.yaml"), service("other", "None")).unwrap();
    write("Succeeded", "other", external);
    folder.scan();
    assert_eq!(sink.names(), ["Namespace /shop", "Service shop/other"]);
    write("Running", "kubernetes.io/service-name", &service("web", "10.0.0.1"));
    fs::remove_file(dir.path().join("b.yaml")).unwrap();
    folder.scan();
    assert_eq!(sink.names(), all);
}
