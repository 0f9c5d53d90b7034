//! What of a module would lie in memory twice once it has been instantiated.
//!
//! The data of active segments are copied into the guest's memory, and the core specification (4.5.4) drops each segment right after that: nobody can ask for
//! them any more.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use wasmparser::BinaryReader;

const HEADER_BYTES: usize = 8;
const DATA_SECTION: u8 = 11;
/// Kinds of segments, in front of each.
const ACTIVE: u32 = 0;
const ACTIVE_IN_MEMORY: u32 = 2;
/// Instructions.
const END: u8 = 0x0b;
const GLOBAL_GET: u8 = 0x23;
const I32_CONST: u8 = 0x41;

/// The data of all segments of at least so many bytes. None if any segment is passive, as the guest can ask for that later, or begins at a place that takes
/// arithmetic to find.
pub fn dropped(module: &[u8], least_bytes: usize) -> Vec<&[u8]> {
    data_section(module)
        .and_then(|section| active(section, least_bytes))
        .unwrap_or_default()
}

fn data_section(module: &[u8]) -> Option<BinaryReader<'_>> {
    let mut reader = BinaryReader::new(module.get(HEADER_BYTES..)?, 0);
    loop {
        let id = reader.read_u8().ok()?;
        let contents = read_vector(&mut reader)?;
        if id == DATA_SECTION {
            return Some(BinaryReader::new(contents, 0));
        }
    }
}

fn active(mut section: BinaryReader<'_>, least_bytes: usize) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    for _ in 0..section.read_var_u32().ok()? {
        match section.read_var_u32().ok()? {
            ACTIVE => {}
            ACTIVE_IN_MEMORY => _ = section.read_var_u32().ok()?,
            _ => return None,
        }
        match section.read_u8().ok()? {
            GLOBAL_GET => _ = section.read_var_u32().ok()?,
            I32_CONST => _ = section.read_var_i32().ok()?,
            _ => return None,
        }
        if section.read_u8().ok()? != END {
            return None;
        }
        let data = read_vector(&mut section)?;
        if data.len() >= least_bytes {
            found.push(data);
        }
    }
    Some(found)
}

/// Bytes behind their number.
fn read_vector<'a>(reader: &mut BinaryReader<'a>) -> Option<&'a [u8]> {
    let bytes = reader.read_var_u32().ok()?;
    reader.read_bytes(bytes as usize).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&[u8]]) {
        let module = wat::parse_str(text).expect("it is a module");
        assert_eq!(dropped(&module, 3), expected, "{text}");
        for end in 0..module.len() {
            dropped(&module[..end], 0); // no bytes make it panic
        }
    }

    #[test]
    fn active_segments_are_dropped() {
        check("(module)", &[]);
        check(
            r#"(module (memory 1) (data (i32.const 8) "long") (data (i32.const 70000) "ab"))"#,
            &[b"long"],
        );
        check(
            r#"(module (import "a" "b" (global i32)) (memory 1) (memory 1)
                (data (memory 1) (global.get 0) "one") (data (i32.const -1) "two"))"#,
            &[b"one", b"two"],
        );
    }

    #[test]
    fn where_one_may_be_asked_for_none_is() {
        check(
            r#"(module (memory 1) (data (i32.const 0) "one") (data "two"))"#,
            &[],
        );
        check(
            r#"(module (memory 1) (data (i32.add (i32.const 1) (i32.const 2)) "one"))"#,
            &[],
        );
    }
}
