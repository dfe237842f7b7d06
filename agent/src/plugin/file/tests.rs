use super::*;
use crate::plugin::testing::{Client, Fixed, directive};
use crate::wire::{RecordType, flags};

const ZONE: &str = "$TTL 300
@ 3600 IN SOA ns hostmaster ( 7 1h 10m 1w 60 )
  NS ns
  NS ns.elsewhere.net.
ns A 10.0.0.53
www 60 A 10.0.0.1
    60 A 10.0.0.2
    TXT ( \"two words\" ; here
          second )
alias CNAME www
out CNAME a.other.net.
loop1 CNAME loop2
loop2 CNAME loop1
mail MX 10 www
*.wild A 10.0.0.9
below.of.nothing A 10.0.0.8
sub NS ns.sub
ns.sub A 10.0.0.54
old DNAME new
x.new A 10.0.0.7
www RRSIG A 8 3 60 20300101000000 20200101000000 1 example.org. AAAA
away.example.net. A 10.0.0.6
$ORIGIN deep
name A 10.0.0.5
";

fn parse(text: &str) -> (Config, Vec<String>) {
    let mut diagnostics = Diagnostics::default();
    let zones = [Name::from_text("example.org").unwrap()];
    let config = Config::parse(&directive(text), &zones, Path::new("/root"), &mut diagnostics);
    (config, diagnostics.to_string().lines().map(str::to_owned).collect())
}

fn served(text: &str, options: &str) -> (tempfile::TempDir, Arc<File>, Client) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.example.org");
    std::fs::write(&path, text).unwrap();
    let (config, wrong) = parse(&format!("file {} {options}", path.display()));
    assert_eq!(wrong, [""; 0]);
    let file = Arc::new(File::new(&[config]));
    let behind = Fixed::waiting("a.other.net. 5 A 192.0.2.1\nno.example.org. 5 A 192.0.2.2");
    (folder, Arc::clone(&file), Client::new(vec![file, behind]))
}

#[test]
fn answers_are_those_of_rfc_1034() {
    let (_folder, _, client) = served(ZONE, "");
    let soa = "authority example.org. 60 SOA ns.example.org.";
    for (name, qtype, text) in [
        (
            "WWW.example.org",
            RecordType::A,
            "NOERROR www.example.org. 60 A 10.0.0.1; www.example.org. 60 A 10.0.0.2",
        ),
        (
            "www.example.org",
            RecordType::TXT,
            "NOERROR www.example.org. 300 TXT \x09two words\x06second",
        ),
        ("www.example.org", RecordType::MX, &format!("NOERROR {soa}")),
        ("none.example.org", RecordType::A, &format!("NXDOMAIN {soa}")),
        ("of.nothing.example.org", RecordType::A, &format!("NOERROR {soa}")),
        ("nothing.example.org", RecordType::A, &format!("NOERROR {soa}")),
        ("x.nothing.example.org", RecordType::A, &format!("NXDOMAIN {soa}")),
        ("a.b.wild.example.org", RecordType::A, "NOERROR a.b.wild.example.org. 300 A 10.0.0.9"),
        ("a.wild.example.org", RecordType::MX, &format!("NOERROR {soa}")),
        ("wild.example.org", RecordType::A, &format!("NOERROR {soa}")),
        (
            "alias.example.org",
            RecordType::CNAME,
            "NOERROR alias.example.org. 300 CNAME www.example.org.",
        ),
        (
            "mail.example.org",
            RecordType::MX,
            "NOERROR mail.example.org. 300 MX www.example.org.; additional www.example.org. 60 A 10.0.0.1; \
             additional www.example.org. 60 A 10.0.0.2",
        ),
        (
            "a.sub.example.org",
            RecordType::A,
            "NOERROR authority sub.example.org. 300 NS ns.sub.example.org.; additional ns.sub.example.org. 300 A 10.0.0.54",
        ),
        (
            "x.old.example.org",
            RecordType::A,
            "NOERROR old.example.org. 300 DNAME new.example.org.; x.old.example.org. 300 CNAME x.new.example.org.; \
             x.new.example.org. 300 A 10.0.0.7",
        ),
        ("name.deep.example.org", RecordType::A, "NOERROR name.deep.example.org. 300 A 10.0.0.5"),
        (
            "out.example.org",
            RecordType::A,
            "NOERROR out.example.org. 300 CNAME a.other.net.; a.other.net. 5 A 192.0.2.1",
        ),
        ("sub.example.org", RecordType::DS, &format!("NOERROR {soa}")),
    ] {
        assert_eq!(client.text(name, qtype), text, "{name} {qtype}");
    }
    assert!(client.text("loop1.example.org", RecordType::A).starts_with("SERVFAIL loop1"));
    assert!(
        client.text("alias.example.org", RecordType::A).ends_with("www.example.org. 60 A 10.0.0.2")
    );
    assert_ne!(client.ask("www.example.org", RecordType::A).unwrap().flags() & flags::AA, 0);
    assert_eq!(client.ask("a.sub.example.org", RecordType::A).unwrap().flags() & flags::AA, 0);
}

#[test]
fn names_that_are_not_there_fall_through() {
    let (_folder, _, client) = served(ZONE, "{\n fallthrough\n}");
    assert_eq!(
        client.text("no.example.org", RecordType::A),
        "NOERROR no.example.org. 5 A 192.0.2.2"
    );
    assert!(client.text("www.example.org", RecordType::MX).starts_with("NOERROR authority"));
}

#[test]
fn files_come_change_and_break() {
    let (folder, file, client) = served("no zone", "");
    let path = folder.path().join("db.example.org");
    assert_eq!(client.text("www.example.org", RecordType::A), "SERVFAIL");
    std::fs::remove_file(&path).unwrap();
    file.refresh();
    assert_eq!(client.text("www.example.org", RecordType::A), "SERVFAIL");
    std::fs::write(&path, ZONE).unwrap();
    file.refresh();
    assert!(client.text("www.example.org", RecordType::A).contains("10.0.0.2"));
    std::fs::write(&path, ZONE.replace("10.0.0.2", "10.0.0.22").replace("( 7", "( 8")).unwrap();
    file.refresh();
    assert!(client.text("www.example.org", RecordType::A).contains("10.0.0.22"));
    std::fs::write(&path, "www A 1.1.1.1").unwrap();
    file.refresh();
    assert!(client.text("www.example.org", RecordType::A).contains("10.0.0.22"));
}

#[test]
fn what_is_wrong_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let origin = Name::from_text("example.org").unwrap();
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let error =
            Zone::load(&path, &origin, &mut FileVersions::default()).unwrap_err().to_string();
        error.replace(&path.display().to_string(), "db")
    };
    assert_eq!(load("a A 1.1.1.1"), "db has no SOA record for example.org.");
    assert_eq!(load("\n\na A 1.1"), "db:3: \"1.1\" is not an IPv4 address");
    assert_eq!(
        load("$GENERATE 1-2 a$ A 1.1.1.$"),
        "db:1: \"$GENERATE\" is not supported here, or its arguments are wrong"
    );
    assert_eq!(load("$INCLUDE db"), "db:1: files include each other too deeply");
    assert_eq!(
        load("@ SOA a b 1 1 1 1 1\n@ SOA a b 1 1 1 1 1"),
        "db:2: there is a second SOA record"
    );
    assert!(load("$INCLUDE nowhere").ends_with("No such file or directory (os error 2)"));

    let (config, wrong) = parse("file db.example.org {\n reload 30s\n}");
    assert_eq!(
        (config.path.as_path(), config.reload),
        (Path::new("/root/db.example.org"), Some(Duration::from_secs(30)))
    );
    assert!(wrong.is_empty());
    assert_eq!(parse("file /db {\n reload 0\n}").0.reload, None);
    assert_eq!(parse("file").1.len(), 1);
    assert_eq!(parse("file a {\n transfer to *\n relaod 3s\n upstream\n}").1.len(), 2);
}
