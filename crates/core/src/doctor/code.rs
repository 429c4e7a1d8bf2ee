//! The stable codes of what `doctor` says, with the text of `docs/reference/doctor.md`.

use crate::code::codes;

codes! {
    /// The stable code of what `doctor` says of a host. `D…` is a finding, `N…` is a remark.
    NoSystemd "D0101" "systemd does not run"
"Instances are units. Files can be rendered without systemd, and nothing can be started."
    OldSystemd "D0102" "a systemd that is too old"
"Directives on which the isolation rests would be ignored without a word, so no units are rendered for it."
    NoNft "D0201" "nft is missing or does not work"
"The policies are rules of nftables. Without `nft` no network comes up, and so no instance."
    NoRules "D0202" "rules that are refused"
"The table of an instance and the host's, rendered as real ones are with everything that any of them uses, were loaded into
a network namespace that nobody else sees, and listed. Where that is refused no network comes up, and so no instance: a
kernel or a container without nftables, a kernel whose modules are locked (`kernel.modules_disabled`,
`security.lockKernelModules`) before these were loaded, an `nft` without JSON. Trying it may load modules that a start needs anyway."
    NoVeth "D0203" "links that cannot be made"
"A pair of interfaces (veth) was made in a network namespace that nobody else sees, as each instance has one, and that was
refused. No network comes up then, and so no instance."
    NoCgroups "D0301" "no unified control groups"
"Limits of memory, processors and processes, and the place of each server's processes, are cgroup v2's."
    NoController "D0302" "a controller that is not there"
"What is declared of it in `resources` is not held."
    NotForwarded "D0401" "forwarding that is off"
"The unit of the namespace turns forwarding on for its link and for the links that the internet and listed destinations are
behind, with IPv6 as the kernel has it, and lets a reverse path filter see marks there. Somebody turned it off since, for
instance a sysctl file that was applied later. The command turns it on; where a file turned it off, change that too."
    ForwardDropped "D0402" "a firewall that drops what instances send"
"Chains of all tables at a hook have their say, and one that drops is not outvoted: no table of this program
can give way to the instances. Looked at are the hooks `prerouting`, `forward` and `postrouting`. What is judged is a TCP
connection of an instance to the internet, and its answers, rule by rule; a rule that cannot be judged so counts for neither
side."
    ListenerDropped "D0403" "a firewall that drops clients of a listener"
"The instance listens on an address that is not loopback, and a chain at the hook `input` drops connections
to its port."
    NoResolver "D0501" "no resolver"
"Names of instances are resolved by the host's resolvers, which `/run/systemd/resolve/resolv.conf` or
`/etc/resolv.conf` names."
    SilentResolvers "D0502" "no resolver answers"
"Each was asked for the root of all names over UDP, and none answered in two seconds."
    LittleRoom "D0601" "little room"
"Less than 256 MiB is left, on a small file system less than a fiftieth of it. A server that cannot write
its database fails in odd ways."
    FewInodes "D0602" "few inodes"
"Less than a fiftieth of the files that the file system can have are left. It is full without them, whatever
room there is."
    NoPackage "D0701" "an opencode that is not known"
"The program that `package` names is not there, may be replaced by others than root, does not say its version, or is of a
generation of which the tests run none, as opencode 2 is. How it is called and asked is data by generation, and a guess here.
Looked at are the packages of installed instances; where none is installed those of the specification, and without one what
is at `/usr/bin/opencode` and `/usr/local/bin/opencode`."
    EarlyClock "D0801" "a clock that is behind"
"This program, or what `apply` or a start of an instance has written as root, is younger than the clock says: sessions sort
wrongly, and certificates are not valid yet. Files of a state are not asked: an agent gives its own any time it likes."
    NoNamespaces "D0901" "no user namespaces"
"The sandbox of each server is in a user namespace of its own (`PrivateUsers=`)."
    NoSeccomp "D0902" "a kernel without seccomp"
"The filter of system calls cannot be loaded, and systemd leaves it out."
    LooseLinks "D0903" "links that others may follow"
"Without these settings of the kernel a user may link to what is another's, and lead a program of root's there
that writes into a directory of all."
    LeftNamespace "D1001" "a network namespace that was left"
"It belongs to no instance that is installed. Nothing of this program uses it."
    LeftLink "D1002" "a link that was left"
"It belongs to no instance that is installed."
    LeftTable "D1003" "a table that was left"
"The host's table guards links of instances, and there is none that is installed."
    LeftUnit "D1004" "a unit that was left"
"It belongs to no instance that is installed, and starts with the host if something wants it."
    BadSecret "D1101" "a secret that cannot be handed over"
"A start fails with it, or the secret is no secret. Its content is never shown."
    EmptySecret "D1102" "a secret that is empty"
"What is handed over is nothing."
    FailedUnit "D1201" "a unit that failed"
"systemd keeps the failure until the unit starts again or is forgotten."
    Unseen "N0001" "what could not be looked at"
"Only root sees all of it; or the program that tells is not there."
    LacksProtection "N0101" "a protection that this systemd does not have"
"The units are rendered without it. `audit` says the same of each instance."
    MayBeDropped "N0401" "a firewall that may drop what instances send"
"One of its rules may let it through; `doctor` cannot judge that rule."
    NoIpv6 "N0402" "no IPv6"
"Instances have IPv4 alone then, and IPv6 is off in their namespaces. That is no fault."
    LegacyRules "N0403" "rules of iptables-legacy"
"`nft` does not list them, and they have their say all the same. A table that is named here may be empty: who only lists
the rules with `iptables-legacy` makes it."
    SilentResolver "N0501" "a resolver that does not answer"
"Another one does. Each question that goes to the silent one first takes longer."
    OtherVersion "N0701" "an opencode whose schema is not part of this program"
"Its settings are judged as those of the newest version that is known. It is called and asked as every 1.x is; the tests run
one of them."
    Unsynchronised "N0801" "a clock that nobody keeps right"
"The kernel says that no program has set it by a server's time."
    NestedNeedsMore "N0901" "unprivileged user namespaces are restricted"
"A sandbox within the sandbox (`sandbox.allowNestedSandbox`) cannot be made. Nothing else needs them."
    KeptState "N1001" "a state directory that was kept"
"`apply` and `remove` keep the state of instances on purpose, and what restores put aside of it or, killed, left beside it. If nobody wants it back, it can go."
    KeptUser "N1002" "a user that was kept"
"Files may belong to it, so it is kept on purpose. Its number is given to nobody else as long as it is there."
}

impl Code {
    /// Whether something should be done.
    pub fn is_finding(self) -> bool {
        self.as_str().starts_with('D')
    }
}
