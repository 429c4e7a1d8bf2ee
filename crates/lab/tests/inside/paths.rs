//! Places of the host that the operator shows in a sandbox.

use instances_lab::fleet::{PATIENCE, SPEC};
use instances_lab::{Agent, fleet, unavailable};

const LISTED: &str = r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101
sandbox.readWritePaths = ["/data/cache 100%:/cache", "-/data/none"]
sandbox.readOnlyPaths = ["/data/book", "/data/link:/mnt/linked"]
"#;

const PREPARE: &str = "
cd /data
echo page >book/page
echo real >real/file
echo secret >secret/file
chmod -R a+rwX .
ln -s real link
";

/// What the agent tries. Every mode on the host would let it write.
const TRY: &str = "
cat /data/book/page /mnt/linked/file
for place in /data/book /mnt/linked /data; do
    (echo x >$place/new) 2>/dev/null && echo wrote $place
done
echo kept >/cache/new && ls /data /mnt
mount --bind /cache /data/book 2>/dev/null && echo mounted
ln -s /etc/shadow /cache/shadow; cat /cache/shadow 2>/dev/null
";

#[test]
fn listed_places_are_there_and_nothing_else() {
    if unavailable() {
        return;
    }
    let places = ["/srv/website", "/data/cache 100%", "/data/book", "/data/real", "/data/secret"];
    let machine = fleet::boot("paths", LISTED, &places).unwrap();
    machine.sh(PREPARE).unwrap().ok().unwrap();
    machine.put("/srv/website/try.sh", TRY, 0o644).unwrap();
    let apply = || machine.run_for(PATIENCE, ["opencode-instances", "apply"]).unwrap();
    let applied = apply();
    assert!(applied.success(), "{applied}");
    assert!(applied.stderr.contains("/data/link of `website` leads to /data/real"), "{applied}");

    let agent = Agent::connect(&machine, "website").unwrap();
    let said = agent.shell("sh try.sh").unwrap();
    let expected = "page\nreal\n/data:\nbook\n\n/mnt:\nlinked\n";
    assert_eq!(said.trim_end(), expected.trim_end());
    assert_eq!(machine.get("/data/cache 100%/new").unwrap(), "kept\n");

    // What a link leads to is judged like what is listed.
    machine.sh("ln -sfn /run /data/link").unwrap().ok().unwrap();
    let refused = apply();
    assert!(
        !refused.success() && refused.stderr.contains("leads to /run: this is /run"),
        "{refused}"
    );
    machine.sh("ln -sfn real /data/link").unwrap().ok().unwrap();
    machine.put(SPEC, LISTED.replace("-/data/none", "/data/none"), 0o644).unwrap();
    let refused = apply();
    assert!(!refused.success() && refused.stderr.contains("write `-` in front"), "{refused}");
}
