//! The fields of Pods.

use super::super::raw::{self, Str};
use super::{Field, Message, Result};

/// `Time`.
impl<'a> Message<'a> for raw::Seconds {
    fn take(&mut self, field: Field<'a>) -> Result {
        if field.number == 1 {
            self.0 = field.number()?;
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::NodePod<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => field.into(&mut self.metadata),
            2 => field.into(&mut self.spec),
            3 => field.into(&mut self.status),
            _ => Ok(()),
        }
    }
}

impl<'a> Message<'a> for raw::PodMeta<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.name = field.text()?,
            3 => self.namespace = field.text()?,
            6 => self.resource_version = field.text()?,
            8 => field.into(&mut self.creation_timestamp)?,
            11 => {
                let (key, value) = field.entry()?;
                self.labels.get_or_insert_default().push(Str::new(key), value);
            }
            13 => self.owner_references.get_or_insert_default().push(field.message()?),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::Owner<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.kind = field.text()?,
            3 => self.name = field.text()?,
            6 => self.controller = Some(field.number()? != 0),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::PodSpec<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            6 => self.dns_policy = field.text()?,
            11 => self.host_network = Some(field.number()? != 0),
            26 => field.into(&mut self.dns_config)?,
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::PodDnsConfig<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            2 => self.searches.get_or_insert_default().push(field.string()?),
            3 => self.options.get_or_insert_default().push(field.message()?),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::DnsOption<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.name = field.text()?,
            2 => self.value = field.text()?,
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::Pod<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => field.into(&mut self.metadata),
            2 => field.into(&mut self.spec),
            3 => field.into(&mut self.status),
            _ => Ok(()),
        }
    }
}

impl<'a> Message<'a> for raw::PodStatus<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        match field.number {
            1 => self.phase = field.text()?,
            6 => self.pod_ip = field.text()?,
            12 => self.pod_ips.get_or_insert_default().push(field.message()?),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Message<'a> for raw::PodIp<'a> {
    fn take(&mut self, field: Field<'a>) -> Result {
        if field.number == 1 {
            self.ip = field.text()?;
        }
        Ok(())
    }
}
