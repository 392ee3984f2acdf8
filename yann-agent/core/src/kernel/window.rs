//! The window of sequence numbers, on the layout of its map; the same rules as in `jlb_peers`.

use jlb_peers::clear_bits;
use jlb_role::Reason;

use crate::maps::Window;

const SIZE: u64 = 1024;
const _: () = assert!(size_of::<Window>() == 8 + SIZE as usize / 8);

/// Workers that a member can have.
pub(super) const WORKERS: u8 = 16;

/// Begins with a number that was just received; all before it count as seen.
pub(super) const fn starting_at(sequence: u64) -> Window {
    Window { highest: sequence, seen: [u64::MAX; 16] }
}

/// Marks a number as seen.
pub(super) fn accept(window: &mut Window, sequence: u64) -> Result<(), Reason> {
    if sequence > window.highest {
        if sequence - window.highest >= SIZE {
            window.seen = [0; 16];
        } else {
            clear_bits(&mut window.seen, window.highest + 1, sequence);
        }
        window.highest = sequence;
    } else if window.highest - sequence >= SIZE || has(window, sequence) {
        return Err(Reason::Replayed);
    }
    window.seen[word(sequence)] |= 1 << (sequence % 64);
    Ok(())
}

fn has(window: &Window, n: u64) -> bool {
    window.seen[word(n)] & 1 << (n % 64) != 0
}

const fn word(n: u64) -> usize {
    (n % SIZE / 64) as usize
}
