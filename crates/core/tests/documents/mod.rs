//! Generated specifications: legal ones, and documents that are almost specifications.

use instances_core::raw::OPTIONS;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A document as data, with the two ways to write it.
#[derive(Clone, Debug)]
pub(crate) struct Document(Value);

impl Document {
    /// As JSON.
    pub(crate) fn json(&self) -> String {
        self.0.to_string()
    }

    /// As TOML, with inline tables below the first level. An option that is `null` is left out; any
    /// other `null` becomes a date, which is refused as well.
    pub(crate) fn toml(&self) -> String {
        let mut document = self.0.clone();
        if let Some(defaults) = document.get_mut("defaults") {
            leave_out_unset(defaults, "");
        }
        if let Some(Value::Object(instances)) = document.get_mut("instances") {
            instances.values_mut().for_each(|options| leave_out_unset(options, ""));
        }
        let Value::Object(entries) = &document else { unreachable!("a document is a table") };
        entries.iter().map(|(key, value)| format!("{} = {}\n", quote(key), inline(value))).collect()
    }
}

/// Removes what is `null` among the options below `prefix`.
fn leave_out_unset(options: &mut Value, prefix: &str) {
    let Value::Object(entries) = options else { return };
    let group = |key: &str| format!("{prefix}{key}.");
    let known = |key: &str| {
        let (option, group) = (format!("{prefix}{key}"), group(key));
        OPTIONS.iter().any(|one| one.key == option || one.key.starts_with(&group))
    };
    entries.retain(|key, value| !(value.is_null() && known(key)));
    entries.iter_mut().for_each(|(key, value)| leave_out_unset(value, &group(key)));
}

fn inline(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Null => "1979-05-27".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quote(text),
        Value::Array(items) => format!("[{}]", list(items.iter().map(inline).collect())),
        Value::Object(entries) => {
            let entries =
                entries.iter().map(|(key, value)| format!("{} = {}", quote(key), inline(value)));
            format!("{{ {} }}", list(entries.collect()))
        }
    }
}

/// A basic string: what is not printable ASCII is written as `\u`.
fn quote(text: &str) -> String {
    let inner: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            ' '..='~' => c.to_string(),
            _ => format!("\\U{:08X}", u32::from(c)),
        })
        .collect();
    format!("\"{inner}\"")
}

/// A part of a path that a directory can have, odd characters included.
fn part() -> impl Strategy<Value = String> {
    "[a-z0-9%$:;#=&{}é~@!,+-][a-z0-9 %$:;#=&{}é~@!,+-]{0,10}[a-z0-9%$:;#=&{}é~@!,+-]"
}

fn path(below: &'static str) -> impl Strategy<Value = String> {
    vec(part(), 1..4).prop_map(move |parts| format!("{below}/{}", parts.join("/")))
}

fn account() -> impl Strategy<Value = String> {
    "z[a-z0-9_-]{0,20}"
}

/// An argument that the module does not set itself: any text without control characters.
fn argument() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[ -,.-~é✓][ -~é✓]{0,12}",
        1 => Just(String::new()),
        1 => Just("--pure".to_owned()),
    ]
}

/// What `unitOverrides` takes: one line that neither begins with a quote nor ends in a backslash.
fn directive_value() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[!#-&(-~é][ -~é]{0,10}[!-\\[\\]-~é]"]
}

/// The options of the instance with this number, which are legal beside those of any other.
fn legal_options(number: usize) -> impl Strategy<Value = Value> {
    let directory = path("/srv").prop_map(move |path| format!("{path}/{number}/d{number}"));
    let state = option::of(path("/data"))
        .prop_map(move |path| Some(format!("{}/{number}/s{number}", path?)));
    let port = 1024 + u16::try_from(number).unwrap_or(0);
    let address = prop_oneof![Just("127.0.0.1"), Just("::1"), Just("0.0.0.0"), Just("192.0.2.7")];
    let level = option::of(prop_oneof![Just("DEBUG"), Just("INFO"), Just("WARN"), Just("ERROR")]);
    let package = option::of(prop_oneof![Just("/usr/bin/opencode"), Just("/opt/opencode 1/bin")]);
    let lists = (vec(argument(), 0..4), vec(account(), 0..3), option::of(account()));
    let flags = (option::of(any::<bool>()), option::of(any::<bool>()));
    let tools =
        vec(prop_oneof![Just("/opt/node-22"), Just("/opt/my tools/é"), Just("/usr/local")], 0..3);
    let overrides = (vec(directive_value(), 0..3), directive_value(), any::<bool>());
    let activation = option::of(prop_oneof![Just("boot"), Just("on-demand")]);
    let idle = (
        activation,
        option::of(1..=604_800_u32),
        option::of(prop_oneof![Just("connected"), Just("active")]),
        option::of(any::<bool>()),
    );
    (directory, state, address, level, package, lists, flags, (tools, overrides, idle)).prop_map(
        move |(
            directory,
            state,
            address,
            level,
            package,
            (args, groups, group),
            (enable, start),
            (tools, (lines, line, stays), (activation, timeout, clients, children)),
        )| {
            let mut options = Map::new();
            options.insert("directory".into(), json!(directory));
            options.insert("listen".into(), json!({ "address": address, "port": port }));
            options.insert("extraArgs".into(), json!(args));
            options.insert("path".into(), json!(tools));
            options.insert("restartOnSwitch".into(), json!(stays));
            let main =
                json!({ "EnvironmentFile": lines, "MemoryMax": 7, "NoNewPrivileges": false });
            let overrides = json!({ "main": main, "net": { "X-Note": line } });
            options.insert("unitOverrides".into(), overrides);
            options.insert("extraGroups".into(), json!(groups));
            let mut set = |key: &str, value: Option<Value>| {
                if let Some(value) = value {
                    options.insert(key.to_owned(), value);
                }
            };
            set("stateDir", state.map(Value::from));
            set("logLevel", level.map(Value::from));
            set("package", package.map(Value::from));
            set("group", group.map(Value::from));
            set("enable", enable.map(Value::from));
            set("autoStart", start.map(Value::from));
            set("activation", activation.map(Value::from));
            set("idleTimeout", timeout.map(Value::from));
            set("idleClients", clients.map(Value::from));
            set("idleChildren", children.map(Value::from));
            Value::Object(options)
        },
    )
}

/// A specification that is accepted, of at most `count` instances.
pub(crate) fn legal(count: usize) -> impl Strategy<Value = Document> {
    (0..=count).prop_flat_map(|count| {
        let all: Vec<_> = (0..count)
            .map(|number| {
                ("[a-z][a-z0-9]{0,8}", legal_options(number))
                    .prop_map(move |(name, options)| (format!("{name}-{number}"), options))
            })
            .collect();
        all.prop_map(|instances| {
            Document(json!({ "instances": instances.into_iter().collect::<Map<_, _>>() }))
        })
    })
}

/// A value that an option may or may not take.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..70_000_i64).prop_map(Value::from),
        (-1e9..1e9).prop_map(|number: f64| json!((number.trunc() + 0.5))),
        any::<String>().prop_map(Value::from),
        "[ -~]{0,20}".prop_map(Value::from),
        path("/srv").prop_map(Value::from),
        path("").prop_map(Value::from),
        Just(json!("/")),
        Just(json!("/srv/../etc")),
        account().prop_map(Value::from),
        Just(json!("::ffff:127.0.0.1")),
        Just(json!("WARN")),
        Just(json!("on-demand")),
        Just(json!("active")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(key(), inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

/// A key: mostly those of options, sometimes any.
fn key() -> impl Strategy<Value = String> {
    let words = [
        "enable",
        "directory",
        "stateDir",
        "user",
        "group",
        "extraGroups",
        "package",
        "listen",
        "address",
        "port",
        "logLevel",
        "extraArgs",
        "autoStart",
        "activation",
        "idleTimeout",
        "idleClients",
        "idleChildren",
        "auth",
        "defaults",
        "instances",
        "state-dir",
        "Port",
    ];
    prop_oneof![
        8 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => "[a-z][a-z0-9-]{0,24}",
        1 => any::<String>(),
    ]
}

/// A document that is almost a specification.
pub(crate) fn almost() -> impl Strategy<Value = Document> {
    let options = || btree_map(key(), value(), 0..6).prop_map(|map| json!(map));
    let name = prop_oneof![4 => "[a-z][a-z0-9-]{0,6}", 1 => any::<String>()];
    let instances = btree_map(name, prop_oneof![6 => options(), 1 => value()], 0..4);
    let whole = (option::of(options()), option::of(instances), option::of((key(), value())));
    let whole = whole.prop_map(|(defaults, instances, other)| {
        let mut document = Map::new();
        document.extend(other);
        document.extend(defaults.map(|value| ("defaults".to_owned(), value)));
        document.extend(instances.map(|value| ("instances".to_owned(), json!(value))));
        Value::Object(document)
    });
    whole.prop_map(Document)
}
