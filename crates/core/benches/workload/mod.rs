//! The specifications that are measured, as text.

/// `count` instances that are all well, each with its own port and a few options.
pub(crate) fn fleet(count: usize) -> String {
    let mut text = String::from("[defaults]\nlogLevel = \"WARN\"\n");
    for (index, port) in (0..count).zip(ports()) {
        text.push_str(&format!(
            "\n[instances.site-{index}]\ndirectory = \"/srv/projects/site-{index}\"\n\
             listen.port = {port}\nextraArgs = [\"--pure\"]\n"
        ));
    }
    text
}

/// The same instances, each with settings of about 40 values.
pub(crate) fn configured(count: usize) -> String {
    let settings = "settings = { model = \"anthropic/claude-sonnet-4-5\", small_model = \"a/b\", \
        share = \"disabled\", permission = { \"*\" = \"ask\", edit = \"allow\", bash = { \"*\" = \"ask\", \
        \"git *\" = \"allow\", \"ls *\" = \"allow\", \"rm *\" = \"deny\" } }, \
        provider.anthropic = { options = { apiKey = \"{env:KEY}\", timeout = 60000 }, \
        models.m = { name = \"M\", limit = { context = 200000, output = 32000 } } }, \
        mcp = { one = { type = \"local\", command = [\"one\", \"--stdio\"], enabled = true }, \
        two = { type = \"remote\", url = \"https://example.org/mcp\" } }, \
        agent = { review = { description = \"Reviews.\", mode = \"subagent\", temperature = 0.1, \
        permission = { edit = \"deny\" } } }, instructions = [\"a.md\", \"b.md\"] }\n";
    let fleet = fleet(count);
    let mut parts = fleet.split("\n[instances.");
    let mut text = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| text.push_str(&format!("\n[instances.{part}{settings}")));
    text
}

/// The same instances as JSON, as the NixOS module writes them.
pub(crate) fn fleet_json(count: usize) -> String {
    let instances = (0..count).zip(ports()).map(|(index, port)| {
        format!(
            "\"site-{index}\":{{\"directory\":\"/srv/projects/site-{index}\",\
             \"listen\":{{\"port\":{port}}},\"extraArgs\":[\"--pure\"]}}"
        )
    });
    let instances = instances.collect::<Vec<_>>().join(",");
    format!("{{\"defaults\":{{\"logLevel\":\"WARN\"}},\"instances\":{{{instances}}}}}")
}

/// `count` instances that all listen on port 4096.
pub(crate) fn same_port(count: usize) -> String {
    wrong(count, |index| format!("directory = \"/srv/{index}\"\n"))
}

/// `count` instances that all have one project directory.
pub(crate) fn same_directory(count: usize) -> String {
    wrong(count, |index| format!("directory = \"/srv/project\"\nlisten.port = {}\n", 1024 + index))
}

/// `count` instances of which each lies inside the one before it, about as deep as paths may be: with few
/// instances as with many, so that each adds as many bytes.
pub(crate) fn nested_directories(count: usize) -> String {
    wrong(count, |index| {
        let directory = "/d".repeat(1900 + index % 100);
        format!("directory = \"{directory}\"\nlisten.port = {}\n", 1024 + index)
    })
}

/// `count` instances that all run as one user, with one state directory.
pub(crate) fn same_user(count: usize) -> String {
    wrong(count, |index| {
        format!(
            "directory = \"/srv/{index}\"\nlisten.port = {}\nuser = \"website\"\n\
             stateDir = \"/data/state\"\n",
            1024 + index
        )
    })
}

/// `count` instances with one unknown key each.
pub(crate) fn unknown_keys(count: usize) -> String {
    wrong(count, |index| {
        format!(
            "directory = \"/srv/{index}\"\nlisten.port = {}\nstate-dir = \"/data\"\n",
            1024 + index
        )
    })
}

fn wrong(count: usize, options: impl Fn(usize) -> String) -> String {
    (0..count).map(|index| format!("[instances.site-{index}]\n{}\n", options(index))).collect()
}

/// Ports that are all different, for as many instances as one address can carry.
fn ports() -> impl Iterator<Item = u16> {
    1024..=u16::MAX
}
