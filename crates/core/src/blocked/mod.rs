//! What an instance was refused: records of the journal, a table of them, and what to add so that it
//! is refused no more.

mod record;
mod suggest;
mod table;

pub use record::{Direction, Entry, Refusal};
pub use suggest::{Suggestion, suggest};
pub use table::{Destination, MAX_DESTINATIONS, Row, Table};
