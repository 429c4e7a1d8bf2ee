//! What systemd makes of the program's requests, as far as our units need it: who is stopped,
//! started or restarted along with whom.

use std::collections::{BTreeMap, BTreeSet};

use instances_core::units::TURNS_SOCKET;

use crate::model::{Actions, decide};
use crate::text::{Files, UnitText};

/// A host's systemd: what it has read, what is active, and what has happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// The files below `/etc/systemd/system`.
    files: Files,
    /// What systemd has read of them: it differs until the next `daemon-reload`.
    loaded: BTreeMap<String, UnitText>,
    /// Every active unit.
    active: BTreeMap<String, Active>,
    /// How often each unit was started.
    runs: BTreeMap<String, u32>,
    /// What has happened since the last [`Host::forget`], in order.
    events: Vec<Event>,
}

/// An active unit.
#[derive(Clone, Debug)]
struct Active {
    /// What it was started from.
    text: UnitText,
    /// The addresses that it listens on: a socket's own, and those that its service was handed.
    listens: Vec<String>,
}

/// Something that happened to a unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// It was started, or a short one ran.
    Started(String),
    /// It was stopped, whether or not it is started again later.
    Stopped(String),
    /// It was reloaded.
    Reloaded(String),
    /// It could not be started.
    Failed(String),
}

/// What has become of a unit, compared with an earlier state of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Became {
    /// It goes on as it was.
    Same,
    /// It is active, and was started anew.
    Again,
    /// It is active, and was not before.
    New,
    /// It was active, and is not any more.
    Gone,
    /// It has done its work, and is over.
    Ran,
}

/// Whom a unit takes along when it is started, and with whom it is stopped or restarted.
const PULLED_IN: &[&str] = &["Requires", "BindsTo", "Wants"];
const STOPPED_WITH: &[&str] = &["Requires", "BindsTo", "PartOf"];

/// Units by the kinds of dependencies on them. A service requires its slice.
fn needs<'a>(text: &'a UnitText, kinds: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let named = kinds.iter().flat_map(|kind| text.words("Unit", kind));
    named.chain(text.words("Service", "Slice"))
}

/// Where a socket listens on the host; in a namespace of its own it is in nobody's way.
fn addresses(text: &UnitText) -> impl Iterator<Item = &str> {
    let inside = text.words("Socket", "NetworkNamespacePath").next().is_some();
    text.words("Socket", "ListenStream").filter(move |_| !inside)
}

impl Host {
    /// A host that has booted with these files.
    pub(crate) fn booted(files: Files) -> Self {
        let mut host = Self { files, ..Self::default() };
        host.reload_manager();
        host.start("multi-user.target");
        host.forget();
        host
    }

    /// Forgets what has happened.
    pub(crate) fn forget(&mut self) {
        self.events.clear();
    }

    /// What has happened, in order.
    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    /// The names of all active units.
    pub(crate) fn active(&self) -> BTreeSet<String> {
        self.active.keys().cloned().collect()
    }

    /// What has become of each unit that was active or has run since.
    pub(crate) fn became(&self, before: &Self) -> BTreeMap<String, Became> {
        let known = self.runs.keys().filter_map(|unit| {
            let again = self.runs.get(unit) != before.runs.get(unit);
            let active = |host: &Self| host.active.contains_key(unit);
            let became = match (active(before), active(self), again) {
                (true, true, false) => Became::Same,
                (true, true, true) => Became::Again,
                (false, true, _) => Became::New,
                (true, false, _) => Became::Gone,
                (false, false, true) => Became::Ran,
                (false, false, false) => return None,
            };
            Some((unit.clone(), became))
        });
        known.collect()
    }

    /// Every active service that runs with another text than the installed one.
    pub(crate) fn stale(&self) -> BTreeSet<String> {
        let services = self.active.iter().filter(|(unit, _)| unit.ends_with(".service"));
        let stale = services.filter(|(unit, active)| {
            UnitText::of(&self.files, unit).as_ref() != Some(&active.text)
        });
        stale.map(|(unit, _)| unit.clone()).collect()
    }

    /// Every open listener: its address, and the units that hold it.
    pub(crate) fn listening(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut listening: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (unit, active) in &self.active {
            for address in &active.listens {
                listening.entry(address).or_default().insert(unit);
            }
        }
        listening
    }

    /// Somebody connects to every open listener but systemd's own, and the service behind it starts.
    pub(crate) fn clients_connect(&mut self) {
        for socket in self.active().iter().filter(|unit| *unit != TURNS_SOCKET) {
            if let Some(name) = socket.strip_suffix(".socket") {
                self.start(&format!("{name}.service"));
            }
        }
    }

    /// `switch-to-configuration test`: from the files that are installed to others.
    ///
    /// `impatient` clients connect again while the activation script runs, which is when systemd
    /// still knows the old units only.
    pub(crate) fn switch(&mut self, new: Files, impatient: bool) -> Actions {
        let mut actions = decide(&self.files, &new, &self.active());
        for unit in &actions.stop {
            self.stop(unit);
        }
        if impatient {
            self.clients_connect();
        }
        self.files = new;
        self.reload_manager();
        // What was stopped along with another one is started instead of reloaded.
        let (reload, revive): (BTreeSet<_>, BTreeSet<_>) =
            actions.reload.into_iter().partition(|unit| self.active.contains_key(unit));
        actions.reload = reload;
        actions.start.extend(revive);
        for unit in &actions.reload {
            self.reload(unit);
        }
        self.restart(&actions.restart);
        for unit in actions.start.iter().chain(&actions.targets) {
            self.start(unit);
        }
        actions
    }

    /// `systemctl daemon-reload`.
    fn reload_manager(&mut self) {
        let units = self.files.keys().filter(|name| !name.contains('/'));
        self.loaded = units
            .filter_map(|name| Some((name.clone(), UnitText::of(&self.files, name)?)))
            .collect();
    }

    /// `systemctl start`, with what the unit pulls in.
    ///
    /// That is looked at even if the unit itself is active; but what is only pulled in, and active,
    /// pulls in nothing more (`transaction_drop_redundant` of systemd, and the garbage collection
    /// after it). So an active server's setup does not run again because its target is started.
    pub(crate) fn start(&mut self, unit: &str) {
        let mut order = Vec::new();
        self.pull_in(unit, &mut BTreeSet::new(), &mut order);
        for unit in order {
            self.start_alone(&unit);
        }
    }

    /// Appends a unit to `order`, after what it pulls in, unless that one is bound to it.
    ///
    /// All of ours are ordered after what they pull in, but for the endpoint, and nothing here
    /// depends on when that one is over.
    fn pull_in(&self, unit: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        let redundant = !seen.is_empty() && self.active.contains_key(unit);
        let Some(text) = self.loaded.get(unit).filter(|_| !redundant) else { return };
        if !seen.insert(unit.to_owned()) {
            return;
        }
        let is_later = |other: &&str| {
            let text = self.loaded.get(*other);
            text.is_some_and(|text| text.words("Unit", "BindsTo").any(|name| name == unit))
        };
        let (later, before): (Vec<&str>, Vec<&str>) = needs(text, PULLED_IN).partition(is_later);
        for other in before {
            self.pull_in(other, seen, order);
        }
        order.push(unit.to_owned());
        for other in later {
            self.pull_in(other, seen, order);
        }
    }

    /// Starts one unit, of which the others that it needs are there already.
    fn start_alone(&mut self, unit: &str) {
        if self.active.contains_key(unit) {
            return;
        }
        let Some(text) = self.loaded.get(unit).cloned() else { return };
        if !self.can_start(unit, &text) {
            self.events.push(Event::Failed(unit.to_owned()));
            return;
        }
        self.events.push(Event::Started(unit.to_owned()));
        *self.runs.entry(unit.to_owned()).or_default() += 1;
        let over_at_once = text.words("Service", "Type").any(|kind| kind == "oneshot")
            && !text.flag("Service", "RemainAfterExit", false);
        if !over_at_once {
            let listens = self.listens(unit, &text);
            self.active.insert(unit.to_owned(), Active { text, listens });
        }
    }

    /// What a unit listens on that is about to start.
    fn listens(&self, unit: &str, text: &UnitText) -> Vec<String> {
        let socket = unit.strip_suffix(".service").map(|name| format!("{name}.socket"));
        socket.and_then(|socket| self.active.get(&socket)).map_or_else(
            || addresses(text).map(str::to_owned).collect(),
            |socket| socket.listens.clone(),
        )
    }

    /// A socket opens only before its service runs, and only at an address that nobody holds.
    fn can_start(&self, unit: &str, text: &UnitText) -> bool {
        let Some(name) = unit.strip_suffix(".socket") else { return true };
        let held = self.listening();
        !self.active.contains_key(&format!("{name}.service"))
            && addresses(text).all(|address| !held.contains_key(address))
    }

    /// `systemctl reload`, after which the unit counts as up to date.
    fn reload(&mut self, unit: &str) {
        if let (Some(active), Some(text)) = (self.active.get_mut(unit), self.loaded.get(unit)) {
            active.text = text.clone();
            self.events.push(Event::Reloaded(unit.to_owned()));
        }
    }

    /// `systemctl stop`: with all that cannot be without the unit.
    pub(crate) fn stop(&mut self, unit: &str) {
        for unit in self.stopped_with(unit) {
            if self.active.remove(&unit).is_some() {
                self.events.push(Event::Stopped(unit));
            }
        }
    }

    /// A unit, and before it those that stop when it does, by the texts that systemd has read.
    ///
    /// systemd keeps the text of a removed unit for as long as the unit is active.
    fn stopped_with(&self, unit: &str) -> Vec<String> {
        let mut order = Vec::new();
        let mut todo = vec![unit.to_owned()];
        while let Some(unit) = todo.pop() {
            if order.contains(&unit) {
                continue;
            }
            let hangs_on = |other: &UnitText| needs(other, STOPPED_WITH).any(|name| name == unit);
            let others = self.active.iter();
            let others = others
                .filter(|(name, other)| hangs_on(self.loaded.get(*name).unwrap_or(&other.text)));
            todo.extend(others.map(|(name, _)| name.clone()));
            order.push(unit);
        }
        order.reverse();
        order
    }

    /// `systemctl restart` for several at once: what they stop comes back if it was active.
    fn restart(&mut self, units: &BTreeSet<String>) {
        let mut again: Vec<String> = Vec::new();
        for unit in units {
            for other in self.stopped_with(unit) {
                if self.active.remove(&other).is_some() {
                    self.events.push(Event::Stopped(other.clone()));
                    again.push(other);
                }
            }
        }
        for unit in units.iter().chain(&again) {
            if !self.active.contains_key(unit) {
                self.start(unit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Host;
    use crate::table::happened;
    use crate::text::Files;

    const TARGET: &str = "[Unit]\nWants=a.service a.socket\n";
    const SOCKET: &str = "[Socket]\nListenStream=127.0.0.1:1\n";

    fn files(units: &[(&str, &str)]) -> Files {
        units.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn switched(host: &mut Host, new: &[(&str, &str)], impatient: bool) -> String {
        host.switch(files(new), impatient);
        happened(host.events())
    }

    #[test]
    fn what_is_pulled_in_and_active_pulls_in_nothing() {
        let units = files(&[
            ("multi-user.target", "[Unit]\nWants=a.service\n"),
            ("a.service", "[Unit]\nRequires=b.service\n"),
            ("b.service", "[Service]\nType=oneshot\n"),
        ]);
        let mut host = Host::booted(units);
        host.start("multi-user.target");
        assert_eq!(happened(host.events()), "");
        host.start("a.service");
        assert_eq!(happened(host.events()), "+b");
    }

    #[test]
    fn units_stop_and_restart_with_those_that_they_need() {
        let unit = |needs: &str| format!("[Unit]\n{needs}\n[Service]\nX-StopIfChanged=no\n");
        let [binds, part, wants] =
            ["BindsTo=a.service", "PartOf=a.service", "Wants=a.service"].map(unit);
        let target = ("multi-user.target", "[Unit]\nWants=b.service c.service d.service\n");
        let with = |a: &'static str| {
            files(&[
                target,
                ("a.service", a),
                ("b.service", &binds),
                ("c.service", &part),
                ("d.service", &wants),
            ])
        };
        let mut host = Host::booted(with("[Service]\nX-StopIfChanged=no\n"));
        host.switch(with("[Service]\nX-StopIfChanged=no\nA=1\n"), false);
        assert_eq!(happened(host.events()), "-b -c -a +a +b +c");
        host.forget();
        host.stop("a.service");
        assert_eq!(happened(host.events()), "-b -c -a");
    }

    #[test]
    fn a_socket_stays_closed_while_its_service_runs() {
        let anchor = "[Unit]\nWants=a.socket\n[Service]\nType=oneshot\nRemainAfterExit=yes\n";
        let changed = anchor.replace("[Service]", "[Service]\nA=1");
        let other = SOCKET.replace(":1", ":2");
        let follows = format!("[Unit]\nPartOf=b.service\n{SOCKET}");
        let moves = format!("[Unit]\nPartOf=b.service\n{other}");
        let old = [
            ("multi-user.target", "[Unit]\nWants=b.service\n"),
            ("a.socket", &*follows),
            ("a.service", "[Service]\n"),
            ("b.service", anchor),
        ];
        let new = [old[0], ("a.socket", &*moves), old[2], ("b.service", &*changed)];
        let mut host = Host::booted(files(&old));
        assert_eq!(switched(&mut host.clone(), &new, false), "-a.socket -b +a.socket +b");
        host.clients_connect();
        host.forget();
        assert_eq!(switched(&mut host, &new, false), "-a.socket -b !a.socket +b");
        assert_eq!(host.listening().into_keys().collect::<Vec<_>>(), ["127.0.0.1:1"]);
    }

    /// Why nothing that a socket can start may be stopped and started.
    #[test]
    fn a_client_starts_the_old_unit_again() {
        let generation = |flags: &str| {
            let server = format!("[Service]\n{flags}\n");
            files(&[
                ("multi-user.target", TARGET),
                ("a.service", &server),
                ("p.socket", SOCKET),
                ("p.service", "[Unit]\nBindsTo=a.service\n"),
            ])
        };
        for (flag, stale) in [("", true), ("X-StopIfChanged=no\n", false)] {
            let mut host = Host::booted(generation(flag));
            host.start("p.socket");
            host.switch(generation(&format!("{flag}A=1")), true);
            assert_eq!(host.stale().contains("a.service"), stale, "{flag}");
        }
    }
}
