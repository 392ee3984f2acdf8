use jlb_map::{Fault, MemberField, Place, ServiceField};

use crate::reader::{File, Span};

/// Where each part of a [`jlb_map::Spec`] stands in its file.
#[derive(Default)]
pub(crate) struct Spans {
    pub(crate) generation: Span,
    pub(crate) epoch: Span,
    pub(crate) keys: Span,
    pub(crate) prefixes: Span,
    pub(crate) port: Span,
    pub(crate) mtu: Span,
    pub(crate) members: Vec<MemberSpans>,
    pub(crate) services: Vec<ServiceSpans>,
}

pub(crate) struct MemberSpans {
    /// Its index in the file, which may have others before it that could not be read.
    pub(crate) index: usize,
    pub(crate) id: Span,
    pub(crate) name: Span,
    pub(crate) addresses: Span,
}

pub(crate) struct ServiceSpans {
    pub(crate) index: usize,
    pub(crate) table: Span,
    pub(crate) name: Span,
    pub(crate) vips: Span,
    pub(crate) each_vip: Vec<Span>,
    pub(crate) port: Span,
    pub(crate) backends: Span,
    pub(crate) each_backend: Vec<Span>,
}

impl Spans {
    /// Turns a fault of the whole into a mistake at its place in the file.
    pub(crate) fn report(&self, file: &File<'_>, place: Place, fault: &Fault) {
        let (span, key) = self.find(place);
        file.mistake(span, &key, fault.to_string(), mend(place, fault));
    }

    fn find(&self, place: Place) -> (Span, String) {
        let (span, key) = match place {
            Place::Generation => (&self.generation, "generation"),
            Place::Epoch => (&self.epoch, "epoch"),
            Place::Keys => (&self.keys, "keys"),
            Place::Prefixes => (&self.prefixes, "underlay.prefixes"),
            Place::Port => (&self.port, "underlay.port"),
            Place::Mtu => (&self.mtu, "underlay.mtu"),
            Place::Members => (&(0..0), "member"),
            Place::Services => (&(0..0), "service"),
            Place::Member(i, field) => return self.member(i, field),
            Place::Service(i, field) => return self.service(i, field),
        };
        (span.clone(), key.to_owned())
    }

    fn member(&self, i: usize, field: MemberField) -> (Span, String) {
        let Some(m) = self.members.get(i) else { return (0..0, "member".to_owned()) };
        let (span, name) = match field {
            MemberField::Id => (&m.id, "id"),
            MemberField::Name => (&m.name, "name"),
            MemberField::Addresses => (&m.addresses, "addresses"),
        };
        (span.clone(), format!("member[{}].{name}", m.index))
    }

    fn service(&self, i: usize, field: ServiceField) -> (Span, String) {
        let Some(s) = self.services.get(i) else { return (0..0, "service".to_owned()) };
        let nth = |spans: &[Span], j: usize| spans.get(j).unwrap_or(&s.table).clone();
        let (span, name) = match field {
            ServiceField::Name => (s.name.clone(), "name".to_owned()),
            ServiceField::Vips => (s.vips.clone(), "vips".to_owned()),
            ServiceField::Vip(j) => (nth(&s.each_vip, j), format!("vips[{j}]")),
            ServiceField::Port => (s.port.clone(), "port".to_owned()),
            ServiceField::RejectTtl => (s.table.clone(), "reject_ttl".to_owned()),
            ServiceField::Backends => (s.backends.clone(), "backends".to_owned()),
            ServiceField::Backend(j) | ServiceField::Weight(j) => {
                (nth(&s.each_backend, j), format!("backends[{j}]"))
            }
        };
        (span, format!("service[{}].{name}", s.index))
    }
}

fn mend(place: Place, fault: &Fault) -> String {
    match fault {
        Fault::ZeroNumber => {
            "start with 1, and raise it with every change it stands for".to_owned()
        }
        Fault::ZeroKey => "make a random key: od -An -N16 -tx1 /dev/urandom | tr -d ' '".to_owned(),
        Fault::OutOfRange { min, max, .. } => format!("write a number from {min} to {max}"),
        Fault::Empty => match place {
            Place::Members => "add a [[member]] for every host of the cluster".to_owned(),
            Place::Prefixes => {
                "name the networks of the members: prefixes = [\"10.1.0.0/24\"]".to_owned()
            }
            Place::Service(_, ServiceField::Vips) => {
                "name the addresses for clients: vips = [\"203.0.113.10\"]".to_owned()
            }
            Place::Generation
            | Place::Epoch
            | Place::Keys
            | Place::Port
            | Place::Mtu
            | Place::Member(..)
            | Place::Services
            | Place::Service(..) => {
                "name the members that serve it: backends = [\"backend-1\"]".to_owned()
            }
        },
        Fault::TooMany { max, .. } => format!("keep {max} or fewer"),
        Fault::BadName(_) => "use letters, digits, `.`, `_` and `-` only".to_owned(),
        Fault::DuplicateName(_) => "give it a name of its own".to_owned(),
        Fault::DuplicateId { .. } => "give it an id that no member has or had".to_owned(),
        Fault::DuplicateAddress { .. } => "correct one of the two".to_owned(),
        Fault::NoAddress => {
            "write one address, or one per family: addresses = [\"10.1.0.11\", \"fd00:1::11\"]"
                .to_owned()
        }
        Fault::UnusableAddress(_) => "write the address that the other hosts use for it".to_owned(),
        Fault::OutsideUnderlay(_) => {
            "correct the address, or add its network to underlay.prefixes".to_owned()
        }
        Fault::NoCommonFamily { .. } => {
            "give one of the two an address of both families".to_owned()
        }
        Fault::VipInUnderlay(_) => "choose a VIP outside, or narrow underlay.prefixes".to_owned(),
        Fault::DuplicateVip { .. } => {
            "use another VIP, port or protocol, or delete one of the two".to_owned()
        }
        Fault::NoSuchMember(_) => "add the member, or delete it here".to_owned(),
        Fault::NotABackend { .. } => "name a member with role = \"backend\"".to_owned(),
        Fault::DuplicateBackend(_) => {
            "delete one of the two; for a larger share raise its weight".to_owned()
        }
    }
}
