//! What many objects have in common, kept once: lists of ports, and Services without name and addresses.

use std::sync::Arc;

use hashbrown::HashSet;
use smallvec::SmallVec;

use super::group::Service as Shape;
use super::slice::Ports;
use crate::cluster::object::{Port, Service};

/// Each list of ports and each shape, once.
#[derive(Default)]
pub(super) struct Shared {
    ports: HashSet<Ports>,
    shapes: HashSet<Arc<Shape>>,
    sweep_at: usize,
}

/// Below so many shared things a sweep is not worth its time.
const LEAST_SWEEP: usize = 1_024;

impl Shared {
    /// Forgets what no object shares any more.
    pub(super) fn sweep(&mut self) {
        self.shapes.retain(|shape| Arc::strong_count(shape) > 1);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.sweep_at = ((self.shapes.len() + self.ports.len()) * 2).max(LEAST_SWEEP);
    }

    /// A Service without name and addresses.
    pub(super) fn shape(&mut self, service: &Service) -> Arc<Shape> {
        if self.shapes.len() + self.ports.len() >= self.sweep_at {
            self.sweep();
        }
        let shape = Shape::new(service, self.ports(&service.ports));
        if let Some(known) = self.shapes.get(&shape) {
            return Arc::clone(known);
        }
        let shape = Arc::new(shape);
        self.shapes.insert(Arc::clone(&shape));
        shape
    }

    /// A list of ports.
    pub(super) fn ports(&mut self, ports: &SmallVec<[Port; 2]>) -> Ports {
        self.ports.get_or_insert_with(ports.as_slice(), |ports| ports.into()).clone()
    }
}
