//! systemd understands each value as what was meant: odd paths and arguments come back unchanged.

use anyhow::{Context as _, Result, ensure};
use instances_core::facts::HostFacts;
use instances_core::spec::Instance;
use instances_core::unit::escape::Word;
use instances_core::unit::{Entry, Unit, Value as Directive};
use instances_core::units::of_instance;
use instances_lab::{Machine, Release, unavailable};
use serde_json::{Value, json};

use crate::{boot, odd};

const COUNT: usize = 300;
/// Flags of a recursive bind mount, as systemd reports them.
const RECURSIVE: u64 = 16384;

/// Prints everything that systemd knows about each unit whose path it reads, one JSON a line.
const SHOW: &str = r#"
while read -r path interface; do
	for i in Unit "$interface"; do
		busctl --json=short call org.freedesktop.systemd1 "$path" org.freedesktop.DBus.Properties GetAll s \
			"org.freedesktop.systemd1.$i"
	done
done"#;

#[test]
fn systemd_reads_what_was_meant() -> Result<()> {
    if unavailable() {
        return Ok(());
    }
    let machine = boot(Release::Trixie, "read-back")?;
    let facts = HostFacts::usr(257);
    let spec = odd::spec(COUNT)?;
    let units: Vec<Unit> =
        spec.instances.iter().flat_map(|instance| of_instance(instance, &facts, "", "")).collect();
    let text = |unit: &Unit| unit.render(257).0;
    install(&machine, &units, text)?;
    let mut wrong = Vec::new();
    for (unit, read) in units.iter().zip(show(&machine, &units)?) {
        for (property, meant) in expected(unit) {
            let found = actual(&read, property);
            // systemd adds what other directives imply.
            let implied = property == "RequiresMountsFor" && contains(&found, &meant);
            if found != meant && !implied {
                wrong.push(format!("{} {property}:\n  meant {meant}\n  read  {found}", unit.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    let meant = |instance: &Instance| !instance.extra_args.is_empty();
    assert!(spec.instances.iter().filter(|instance| meant(instance)).count() > COUNT / 2);
    Ok(())
}

fn install(machine: &Machine, units: &[Unit], text: impl Fn(&Unit) -> String) -> Result<()> {
    for part in units.chunks(50) {
        let mut script = String::from("mkdir -p /run/systemd/system; cd /run/systemd/system\n");
        for unit in part {
            script += &format!("cat >{} <<'END OF UNIT'\n{}END OF UNIT\n", unit.name, text(unit));
        }
        machine.put("/run/install", script, 0o600)?;
        machine.run(["sh", "-eu", "/run/install"])?.ok()?;
    }
    machine.sh("systemctl daemon-reload")?.ok()?;
    Ok(())
}

/// Asks for all units at once; each answer is the merged properties of both interfaces.
fn show(machine: &Machine, units: &[Unit]) -> Result<Vec<Value>> {
    let lines: Vec<String> = units.iter().map(|unit| object(&unit.name)).collect();
    machine.put("/run/units", lines.join("\n") + "\n", 0o600)?;
    let script = format!("{SHOW} </run/units");
    let said = machine.run_for(std::time::Duration::from_mins(6), ["sh", "-euc", &script])?.ok()?;
    let answers: Vec<Value> =
        said.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>()?;
    ensure!(answers.len() == 2 * units.len(), "{} answers", answers.len());
    let merge = |pair: &[Value]| {
        let maps = pair.iter().filter_map(|answer| answer.pointer("/data/0")?.as_object().cloned());
        Value::Object(maps.flatten().collect())
    };
    Ok(answers.chunks(2).map(merge).collect())
}

/// The object's path and the second interface of a unit.
fn object(name: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("_{other:02x}"),
    };
    let interface = if name.ends_with(".socket") { "Socket" } else { "Service" };
    let escaped: String = name.bytes().map(escape).collect();
    format!("/org/freedesktop/systemd1/unit/{escaped} {interface}")
}

/// What each property must be, from the values before they were escaped.
fn expected(unit: &Unit) -> Vec<(&'static str, Value)> {
    let entries: Vec<&Entry> = unit.sections.iter().flat_map(|section| &section.entries).collect();
    let all = |directive: &str, value: &dyn Fn(&Directive) -> Option<Value>| {
        let matching = entries.iter().filter(|entry| entry.directive == directive);
        matching.filter_map(|entry| value(&entry.value)).collect::<Value>()
    };
    let mut properties = vec![
        ("RequiresMountsFor", all("RequiresMountsFor", &path)),
        ("Asserts", all("AssertPathIsDirectory", &path)),
    ];
    if unit.name.ends_with(".socket") {
        let listens = entries.iter().filter(|entry| entry.directive.starts_with("Listen"));
        properties.push(("Listen", listens.filter_map(|entry| words(&entry.value)).collect()));
        return properties;
    }
    let last = |directive: &str| all(directive, &path).get(0).cloned().unwrap_or(json!(""));
    properties.extend([
        ("BindPaths", all("BindPaths", &bind)),
        ("BindReadOnlyPaths", all("BindReadOnlyPaths", &bind)),
        ("WorkingDirectory", last("WorkingDirectory")),
        ("ExecStartPre", all("ExecStartPre", &argv)),
        ("ExecStart", all("ExecStart", &argv)),
        ("ExecStop", all("ExecStop", &argv)),
        ("Environment", all("Environment", &variable)),
        ("LoadCredential", all("LoadCredential", &credential)),
        ("StateDirectory", split(&all("StateDirectory", &words))),
    ]);
    properties
}

fn actual(read: &Value, property: &str) -> Value {
    let Some(data) = read.get(property).and_then(|property| property.get("data")) else {
        return json!("no such property");
    };
    let each = |part: &dyn Fn(&Value) -> Option<Value>| {
        data.as_array().into_iter().flatten().filter_map(part).collect::<Value>()
    };
    match property {
        "Asserts" => each(&|assert| assert.get(3).cloned()),
        "Listen" => each(&|listen| listen.get(1).cloned()),
        "ExecStartPre" | "ExecStart" | "ExecStop" => each(&|command| command.get(1).cloned()),
        _ => data.clone(),
    }
}

fn contains(found: &Value, meant: &Value) -> bool {
    let (Value::Array(found), Value::Array(meant)) = (found, meant) else { return false };
    meant.iter().all(|path| found.contains(path))
}

fn path(value: &Directive) -> Option<Value> {
    match value {
        Directive::Path(path) | Directive::ListedPath(path) => Some(json!(path.as_str())),
        _ => None,
    }
}

fn bind(value: &Directive) -> Option<Value> {
    let Directive::Bind(bind) = value else { return None };
    let target = bind.target.as_deref().unwrap_or(&bind.source);
    Some(json!([bind.source, target, bind.optional, RECURSIVE]))
}

fn words(value: &Directive) -> Option<Value> {
    let Directive::Words(words) = value else { return None };
    Some(json!(words))
}

/// Each word by itself; none of these has a blank in it.
fn split(texts: &Value) -> Value {
    let texts = texts.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.flat_map(str::split_whitespace).map(|word| json!(word)).collect()
}

/// `$` is still doubled: it is expanded when the command starts.
fn argv(value: &Directive) -> Option<Value> {
    let Directive::Command(command) = value else { return None };
    let words = command.argv.iter().map(|word| match word {
        Word::Literal(text) => json!(text.replace('$', "$$")),
        Word::Variable(name) => json!(format!("${name}")),
    });
    Some(words.collect())
}

fn variable(value: &Directive) -> Option<Value> {
    let Directive::Variable(name, value) = value else { return None };
    Some(json!(format!("{name}={value}")))
}

fn credential(value: &Directive) -> Option<Value> {
    let Directive::Credential(id, path) = value else { return None };
    Some(json!([id, path]))
}

/// The text of an odd argument reaches the program as it was typed.
#[test]
fn programs_get_what_was_meant() -> Result<()> {
    if unavailable() {
        return Ok(());
    }
    let machine = boot(Release::Trixie, "arguments")?;
    let arguments: Vec<Word> = odd::spec(100)?
        .instances
        .iter()
        .flat_map(|instance| instance.extra_args.iter().map(Word::from).collect::<Vec<_>>())
        .collect();
    let print = "import json, sys; json.dump(sys.argv[1:], open('/run/got', 'w'))";
    let mut argv: Vec<Word> = vec!["/usr/bin/python3".into(), "-c".into(), print.into()];
    argv.extend(arguments.iter().cloned());
    let service = instances_core::unit::Section::new("Service")
        .set("Type", Directive::word("oneshot"))
        .set("ExecStart", Directive::command(argv));
    let unit = Unit { name: "print.service".into(), sections: vec![service] };
    install(&machine, &[unit], |unit| unit.render(257).0)?;
    machine.sh("systemctl start print.service")?.ok()?;
    let got: Vec<String> = serde_json::from_str(&machine.get("/run/got")?)?;
    let meant: Vec<String> = arguments
        .iter()
        .map(|word| match word {
            Word::Literal(text) => Ok(text.clone()),
            Word::Variable(name) => Err(*name),
        })
        .collect::<Result<_, _>>()
        .ok()
        .context("a variable among the arguments")?;
    assert_eq!(got, meant);
    Ok(())
}
