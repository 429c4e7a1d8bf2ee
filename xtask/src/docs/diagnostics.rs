//! `docs/reference/diagnostics.md`.

use instances_core::code::Code;

pub(super) fn text() -> String {
    let mut text = format!(
        "{}# Diagnostics\n\n\
         Codes are stable. `E…` refuses the specification: nothing is changed, and the exit status is 3.\n\
         `W…` is a remark. `opencode-instances explain CODE` prints these texts; `check --json` gives the\n\
         code, the place and the smallest change that would be accepted.\n\n\
         | code | meaning |\n|---|---|\n",
        super::HEADER
    );
    text += &super::codes(
        Code::ALL.iter().map(|code| [code.as_str(), code.title(), code.explanation()]),
    );
    text
}
