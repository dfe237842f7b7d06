//! Cluster names that are asked for while something else goes wrong.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::rr::RecordType;

use crate::client::Client;
use crate::poll;

/// Objects for a folder that `kubernetes` serves: one Service in one namespace.
pub const OBJECTS: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n---\napiVersion: v1\nkind: Service\n\
    metadata: { name: web, namespace: shop }\nspec: { clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1], ports: [{ port: 80 }] }\n";

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks for the Service's name; it has to be answered within a second, without asking again.
///
/// # Panics
/// When it is not.
pub fn cluster_name(server: SocketAddr) {
    let client = Client::new(server).within(Duration::from_secs(1));
    let answer = client.ask("web.shop.svc.cluster.local.", RecordType::A);
    let data = answer.as_ref().map(|answer| answer.data(RecordType::A));
    assert!(matches!(&data, Ok(data) if data == &["10.96.1.1"]), "{server}: {answer:?}");
}

/// Runs a test while [`cluster_name`] is asked of all these servers again and again. Returns how often.
///
/// # Panics
/// When the test does, or a question is not answered.
pub fn cluster_names(servers: &[SocketAddr], test: impl FnOnce()) -> usize {
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for &server in servers {
            let (over, asked) = (&over, &asked);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    cluster_name(server);
                    asked.fetch_add(1, Relaxed);
                    poll::pause(PAUSE);
                }
            });
        }
        // Whatever becomes of the test, the others have to end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        over.store(true, Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    asked.into_inner()
}
