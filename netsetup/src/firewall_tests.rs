//! Rules, made by hand, and what becomes of a query.

use super::*;

fn named(name: &str, expression: Expressions) -> ListAttribute<ExpressionAttribute> {
    ListAttribute::Element(vec![
        ExpressionAttribute::Name(name.into()),
        ExpressionAttribute::Data(expression),
    ])
}

fn iif(name: &str) -> Rule {
    let meta = vec![Meta::Key(MetaKey::Iifname), Meta::DestinationRegister(Register::Reg1)];
    let mut octets = name.as_bytes().to_vec();
    octets.resize(16, 0);
    vec![named("meta", Expressions::Meta(meta)), equals(octets)]
}

fn port(number: u16) -> Rule {
    let payload = vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(TRANSPORT),
        Payload::Offset(2),
        Payload::Len(2),
    ];
    vec![named("payload", Expressions::Payload(payload)), equals(number.to_be_bytes().to_vec())]
}

fn equals(octets: Vec<u8>) -> ListAttribute<ExpressionAttribute> {
    let cmp = vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(DataAttribute::Value(octets)),
    ];
    named("cmp", Expressions::Cmp(cmp))
}

fn ends(mut rule: Rule, verdict: Verdict, chain: Option<&str>) -> Rule {
    let mut attributes = vec![VerdictAttribute::Code(verdict)];
    attributes.extend(chain.map(|name| VerdictAttribute::Chain(name.into())));
    let data = Immediate::Data(DataAttribute::Verdict(attributes));
    rule.push(named("immediate", Expressions::Immediate(vec![data])));
    rule
}

fn decision(drops: bool, rules: Vec<Rule>) -> Decision {
    let packet = Packet { to: "169.254.20.10".parse().unwrap(), tcp: false, port: 53 };
    let origin = Origin { family: "inet", table: "t".into(), chain: "input".into() };
    let other = ends(port(53), ACCEPT, None);
    let read = |origin: &Origin| match origin.chain.as_str() {
        "input" => Ok(rules.clone()),
        "loop" => Ok(vec![ends(Vec::new(), Verdict::Jump, Some("loop"))]),
        _ => Ok(vec![other.clone()]),
    };
    let mut walk = Walk { packet, chains: BTreeMap::new(), steps: 0, read: &read };
    walk.base(&Base { origin, hook: 1, priority: 0, drops }).unwrap()
}

const ACCEPT: Verdict = Verdict::Other(libc::NF_ACCEPT as u32);
const DROP: Verdict = Verdict::Other(libc::NF_DROP as u32);

#[test]
fn rules_are_followed_as_far_as_they_can_be_told() {
    let dropped = Decision::Dropped("inet t input".into());
    assert_eq!(decision(false, Vec::new()), Decision::Accepted);
    assert_eq!(decision(true, Vec::new()), dropped);
    assert_eq!(decision(true, vec![ends(iif("lo"), ACCEPT, None)]), dropped);
    assert_eq!(
        decision(true, vec![ends(iif("veth1"), ACCEPT, None)]),
        Decision::Unclear("inet t input".into())
    );
    assert_eq!(decision(true, vec![ends(port(53), ACCEPT, None)]), Decision::Accepted);
    assert_eq!(decision(true, vec![ends(port(80), ACCEPT, None)]), dropped);
    assert_eq!(decision(false, vec![ends(port(53), DROP, None)]), dropped);
    assert_eq!(
        decision(true, vec![ends(Vec::new(), Verdict::Jump, Some("dns"))]),
        Decision::Accepted
    );
    // Chains that lead to themselves, which the kernel refuses, end here as well.
    let endless = vec![ends(Vec::new(), Verdict::Goto, Some("loop"))];
    assert_eq!(decision(true, endless), Decision::Unclear("inet t input".into()));
}
