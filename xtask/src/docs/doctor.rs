//! `docs/reference/doctor.md`.

use instances_core::doctor::Code;

pub(super) fn text() -> String {
    let mut text = format!(
        "{}# What `doctor` says\n\n\
         `opencode-instances doctor` looks at the host, with or without instances, and says of each fault what mends it. Codes are\n\
         stable. `D…` is a finding: the exit status is 4. `N…` is a remark. The first line has the versions of systemd and nft; `--json` has\n\
         them as `systemd` and `nft`, and `findings` and `notes`, each with `code`, `what` and `remedy`. Nothing is changed; root sees all of it, and others are told what they cannot see.\n\n\
         | code | meaning |\n|---|---|\n",
        super::HEADER
    );
    text += &super::codes(
        Code::ALL.iter().map(|code| [code.as_str(), code.title(), code.explanation()]),
    );
    text
}
