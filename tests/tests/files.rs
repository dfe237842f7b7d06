//! Files that change while the server runs: zone files with what they include, hosts files, the template of NodeLocal
//! DNSCache with its ConfigMap, folders of objects. What counts as a change is tested in `agent/src/file_watch`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use tests::poll::wait_for;
use tests::process::{Nodens, Setup};

/// Below the poll of zone files (60 s) and of the hosts file below (1 h): it was inotify.
const SOON: Duration = Duration::from_secs(20);

fn answers(nodens: &Nodens, name: &str, address: &str) -> bool {
    nodens.client().ask(name, RecordType::A).is_ok_and(|a| a.data(RecordType::A) == [address])
}

#[track_caller]
fn wait_answer(nodens: &Nodens, what: &str, name: &str, address: &str) {
    wait_for(what, SOON, || answers(nodens, name, address));
}

fn zone(serial: u32, rest: &str) -> String {
    format!(
        "$ORIGIN z.test.\n$TTL 60\n@ IN SOA ns.z.test. a.z.test. {serial} 3600 600 86400 60\n{rest}\n"
    )
}

/// A generation of a mounted ConfigMap with one key, as the kubelet writes it.
fn generation(folder: &Path, number: u32, key: &str, text: &str) {
    fs::create_dir(folder.join(format!("..{number}"))).unwrap();
    fs::write(folder.join(format!("..{number}/{key}")), text).unwrap();
    let fresh = folder.join("..data_tmp");
    symlink(format!("..{number}"), &fresh).unwrap();
    fs::rename(fresh, folder.join("..data")).unwrap();
    let _ = fs::remove_dir_all(folder.join(format!("..{}", number - 1)));
}

#[test]
fn a_zone_file_is_followed_with_what_it_includes() {
    let corefile = "z.test:@dns@ {
    bind 127.0.0.1
    ready 127.0.0.1:@ready@
    file @folder@/z.db
}
";
    let nodens = Setup::new(corefile)
        .file("z.db", &zone(1, "$INCLUDE hosts.inc"))
        .file("hosts.inc", "a IN A 192.0.2.1\n")
        .start();
    wait_answer(&nodens, "the first zone", "a.z.test.", "192.0.2.1");
    fs::write(nodens.folder().join("hosts.inc"), "a IN A 192.0.2.2\n").unwrap();
    wait_answer(&nodens, "what is included, in place", "a.z.test.", "192.0.2.2");
    nodens.write_file("z.db", &zone(2, "a IN A 192.0.2.3"));
    wait_answer(&nodens, "the file renamed over", "a.z.test.", "192.0.2.3");
    // An older copy, of the same size.
    let path = nodens.folder().join("z.db");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let copy = nodens.folder().join("copy");
    fs::write(&copy, zone(3, "a IN A 192.0.2.4")).unwrap();
    fs::File::open(&copy).unwrap().set_modified(before).unwrap();
    fs::rename(&copy, &path).unwrap();
    wait_answer(&nodens, "the same size and time", "a.z.test.", "192.0.2.4");
}

#[test]
fn a_hosts_file_of_a_config_map_is_followed() {
    let corefile = ".:@dns@ {
    bind 127.0.0.1
    ready 127.0.0.1:@ready@
    hosts @folder@/cm/hosts {
        reload 1h
    }
}
";
    let nodens = Setup::new(corefile).file("cm/other", "").start();
    let folder = nodens.folder().join("cm");
    symlink("..data/hosts", folder.join("hosts")).unwrap();
    for number in 1..4 {
        generation(&folder, number, "hosts", &format!("192.0.2.{number} a.test\n"));
        wait_answer(&nodens, "the generation", "a.test.", &format!("192.0.2.{number}"));
    }
}

/// Case Q22: an object that loses its name loses it at once, and the log has the reason.
#[test]
fn an_object_in_a_folder_that_loses_its_name_loses_it_at_once() {
    let corefile = "cluster.local:@dns@ {
    bind 127.0.0.1
    ready 127.0.0.1:@ready@
    kubernetes cluster.local {
        objects @folder@/objects
        pods verified
    }
}
";
    let objects = |phase: &str, service: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: job, namespace: shop}}\nstatus: {{podIP: 10.1.0.1, phase: {phase}}}\n---\n\
             kind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {service}\n"
        )
    };
    let first = objects("Running", "{clusterIP: 10.96.0.1}");
    let nodens = Setup::new(corefile).file("objects/a.yaml", &first).start();
    let (pod, web) = ("10-1-0-1.shop.pod.cluster.local.", "web.shop.svc.cluster.local.");
    wait_answer(&nodens, "the Pod", pod, "10.1.0.1");
    wait_answer(&nodens, "the Service", web, "10.96.0.1");
    let external = "{type: ExternalName, externalName: 10.0.0.9}";
    nodens.write_file("objects/a.yaml", &objects("Succeeded", external));
    let denied = |name: &str| {
        let answer = nodens.client().ask(name, RecordType::A);
        answer.is_ok_and(|answer| answer.normal.rcode == "NXDOMAIN")
    };
    wait_for("the Pod's end", SOON, || denied(pod));
    wait_for("the Service's end", SOON, || denied(web));
    nodens.wait_for_log("shop/job: its phase is Succeeded: it has no name", SOON);
    nodens.wait_for_log("spec.externalName `10.0.0.9` is an address", SOON);
    nodens.write_file("objects/a.yaml", &first);
    wait_answer(&nodens, "the Pod again", pod, "10.1.0.1");
    wait_answer(&nodens, "the Service again", web, "10.96.0.1");
}
