//! What a medium's local.cfg says of a machine: the text is plain `NAME=value` lines already, read and checked by the
//! engine; nothing here finds files or undoes quotes.

/// The value of a variable, and its line.
pub fn value<'a>(text: &'a str, name: &str) -> Option<(&'a str, usize)> {
    text.lines().zip(1..).find_map(|(line, number)| {
        let (this, value) = line.split_once('=')?;
        (this == name && !value.is_empty()).then_some((value, number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_name() {
        let text = "\nHOSTNAME=\nHOSTNAME=www1\nHOSTNAME=www2\nnothing\n=x\nA=b=c\n";
        for (name, expected) in
            [("HOSTNAME", Some(("www1", 3))), ("A", Some(("b=c", 7))), ("IMAGENAME", None), ("HOST", None)]
        {
            assert_eq!(value(text, name), expected, "{name}");
        }
    }
}
