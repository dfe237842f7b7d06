use super::*;

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

#[test]
fn text_and_wire_agree() {
    assert_eq!(
        name("Api.Default.svc.cluster.local").as_bytes(),
        b"\x03api\x07default\x03svc\x07cluster\x05local\0"
    );
    assert_eq!(
        name("api.default.svc.cluster.local.").to_string(),
        "api.default.svc.cluster.local."
    );
    assert_eq!(name(".").to_string(), ".");
    assert_eq!(name(r"a\.b\032c.example").to_string(), r"a\.b\032c.example.");
}

#[test]
fn what_is_no_name_is_refused() {
    assert_eq!(Name::from_text(""), Err(NameError::Empty));
    assert_eq!(Name::from_text("a..b"), Err(NameError::Empty));
    assert_eq!(Name::from_text(".a"), Err(NameError::Empty));
    assert_eq!(Name::from_text(&"a".repeat(64)), Err(NameError::Label));
    assert_eq!(Name::from_text(&"abcdefg.".repeat(32)), Err(NameError::Long));
    assert_eq!(Name::from_text(r"a\25"), Err(NameError::Escape));
    assert_eq!(Name::from_text(r"a\256"), Err(NameError::Escape));
}

#[test]
fn the_longest_name_fits() {
    let text = format!("{}{}", "abcdefg.".repeat(31), "abcde");
    let long = name(&text);
    assert_eq!(long.as_ref().len(), MAX_NAME);
    assert_eq!(NameRef::parse(long.as_bytes()).unwrap(), long.as_ref());
    assert!(Name::from_text(&format!("{text}f")).is_err());
}

#[test]
fn a_suffix_is_one_of_labels_not_of_octets() {
    let zone = name("a.b");
    assert!(name("x.a.b").as_ref().is_within(zone.as_ref()));
    assert!(zone.as_ref().is_within(zone.as_ref()));
    assert!(zone.as_ref().is_within(NameRef::ROOT));
    // The label `z\001a` ends with the octets of the zone `a.b`.
    assert!(!name(r"z\001a.b").as_ref().is_within(zone.as_ref()));
    assert!(!name("b").as_ref().is_within(zone.as_ref()));
    assert_eq!(name("x.y.a.b").as_ref().relative_to(zone.as_ref()), Some(&b"\x01x\x01y"[..]));
}

#[test]
fn pointers_lead_backwards_only() {
    let message = b"\x01a\x01b\0\x01c\xc0\x02\xc0\x09";
    let (expanded, next) = NameBuf::expand(message, 5).unwrap();
    assert_eq!((expanded.as_name().to_string().as_str(), next), ("c.b.", 9));
    assert_eq!(NameBuf::expand(message, 9).unwrap_err(), NameError::Pointer);
}

proptest::proptest! {
    #[test]
    fn any_name_survives_text(labels in proptest::collection::vec(proptest::collection::vec(0u8.., 1..20), 0..8)) {
        let mut buf = NameBuf::new();
        for label in &labels { buf.push_label(label).unwrap(); }
        let name = buf.as_name().to_name();
        proptest::prop_assert_eq!(Name::from_text(&name.to_string()).unwrap(), name);
    }

    #[test]
    fn any_octets_are_a_name_or_an_error(bytes in proptest::collection::vec(0u8.., 0..600), at in 0usize..600) {
        let _ = NameRef::parse(&bytes);
        let _ = NameBuf::expand(&bytes, at);
    }
}
