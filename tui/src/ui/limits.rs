//! Every bound and deadline of the terminal UI, with its unit and its reason.

use std::time::Duration;

/// Rows that a session keeps; 50 000 small ones are 30 MiB. The host's ring has as many.
pub(crate) const ROWS: usize = 50_000;
/// Bytes that those rows may take, bodies included.
pub(crate) const ROW_BYTES: usize = 64 << 20;
/// Marked rows stay when others leave; so many at most, or the cap above would mean nothing.
pub(crate) const MARKS: usize = 1_000;
/// Raw output of the command that is kept to draw it again after a resize.
pub(crate) const CHILD_BYTES: usize = 4 << 20;
/// Narrowest terminal that the command gets.
pub(crate) const CHILD_COLUMNS: u16 = 20;
/// Lowest terminal that the command gets.
pub(crate) const CHILD_ROWS: u16 = 5;
/// Lines of the command's output that can be scrolled back to.
pub(crate) const CHILD_SCROLLBACK: usize = 2_000;
/// Notices kept for the list of messages.
pub(crate) const NOTICES: usize = 500;
/// Lines of the prompts kept as history.
pub(crate) const HISTORY: usize = 100;
/// Longest text of a prompt, in characters.
pub(crate) const PROMPT_CHARS: usize = 2_000;
/// Lines of one body that are formatted; more would cost memory that nobody scrolls through. The export has all of it.
pub(crate) const BODY_LINES: usize = 2_000;
/// Bytes of one body that are formatted.
pub(crate) const BODY_FORMATTED: usize = 256 << 10;
/// How long a notice that is not an error stays.
pub(crate) const TOAST_MS: i64 = 5_000;
/// How long a switch of mode may wait for the agent before it is given up on screen; the host's own deadline is shorter.
pub(crate) const SWITCH_MS: i64 = 15_000;
/// Seconds of the rate and heat graphs.
pub(crate) const GRAPH_SECONDS: usize = 120;
/// A view that is sorted by anything but time is put in order at most this often: 50 000 rows take about 10 ms.
pub(crate) const SORT_MS: i64 = 250;

/// Pictures per second of changing data: above 30 nobody sees a difference, and diffing costs as much as drawing.
pub(crate) const FRAME: Duration = Duration::from_millis(33);
/// Pictures after key presses: at once, but a held key does not draw more often than this.
pub(crate) const KEY_GAP: Duration = Duration::from_millis(8);
/// Batches (of up to 1024 events) between connection and screen. When full, the connection waits, and the host counts what is lost.
pub(crate) const MESSAGES: usize = 16;
/// Rows of a session that come at once, e.g. all that the host holds when one attaches: as many as are kept.
pub(crate) const ROWS_AT_ONCE: f64 = 50_000.0;
/// Rows that are taken each second after that; the host counts what it leaves out. It costs less than 10 % of a core.
pub(crate) const ROWS_PER_SECOND: f64 = 30_000.0;
/// Messages taken per turn, so that a key press waits for at most these.
pub(crate) const MESSAGES_PER_TURN: usize = 8;
/// Effects on their way to the connection; a person does not press keys faster than they are run.
pub(crate) const EFFECTS: usize = 256;
/// How often ages and rates are brought up to date, when any are shown.
pub(crate) const CLOCK: Duration = Duration::from_secs(1);
/// Deadline of a call to a session host that answers from memory.
pub(crate) const CALL: Duration = Duration::from_secs(5);
/// Deadline of calls that wait for the agent, the command or a disk.
pub(crate) const SLOW_CALL: Duration = Duration::from_secs(20);
/// Deadline of a request that is sent again; the host's own is 30 s and says why.
pub(crate) const RESEND_CALL: Duration = Duration::from_secs(35);
/// First wait after a lost connection; doubled each time.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest wait between attempts.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often latency histograms are read while they are shown.
pub(crate) const HISTOGRAMS: Duration = Duration::from_secs(1);
/// How often targets and sessions of this machine are looked for; it is a directory listing.
pub(crate) const LISTING: Duration = Duration::from_secs(1);
/// How often all processes are looked at for listeners although none has come or gone; it takes some 10 ms.
pub(crate) const SCAN: Duration = Duration::from_secs(10);
/// How often they are looked at when some have: a machine that starts programs all the time must not pay for it all the time.
pub(crate) const SCAN_SOON: Duration = Duration::from_secs(2);
/// How long after a change that goes on.
pub(crate) const SETTLE: Duration = Duration::from_secs(5);
/// How long the I/O side may take to end after the screen has been given back.
pub(crate) const CLOSE: Duration = Duration::from_secs(1);
/// OSC 52: longest text that common terminals take (base64 of it stays below 100 000).
pub(crate) const CLIPBOARD_BYTES: usize = 74_994;

/// Longest text that comes back from the editor: more than any body that is kept.
pub(crate) const DRAFT_BYTES: u64 = 1 << 20;
/// Names that are tried for the file of the editor.
pub(crate) const DRAFT_NAMES: u32 = 100;
/// Places kept for going back and forward.
pub(crate) const PLACES: usize = 100;
/// How often it is looked whether a session that shall be started again has ended.
pub(crate) const ENDING: Duration = Duration::from_millis(50);

/// Smallest screen that anything useful fits on.
pub(crate) const MIN_COLUMNS: u16 = 40;
/// Smallest height.
pub(crate) const MIN_ROWS: u16 = 10;
