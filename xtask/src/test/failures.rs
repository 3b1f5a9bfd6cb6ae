//! What failed tests have said, told once more at the end of the run: between their output lie thousands of lines.

/// Takes what the runs print, line by line.
#[derive(Debug, Default)]
pub(super) struct Failures {
    said: Vec<String>,
    place: Place,
}

/// Where in the output of a run the last line was.
#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    /// Among the results and the output of those that passed.
    #[default]
    Results,
    /// Behind `failures:`, in no test.
    Failures,
    /// Behind `---- NAME stdout ----` there.
    Test,
}

impl Failures {
    /// The output of each failed test, up to its backtrace.
    pub(super) fn said(&self) -> &[String] {
        &self.said
    }

    pub(super) fn take(&mut self, line: &str) {
        self.place = match line {
            "failures:" => Place::Failures,
            "stack backtrace:" if self.place == Place::Test => Place::Failures,
            _ if line.starts_with("test result:") => Place::Results,
            _ if self.place != Place::Results && line.starts_with("---- ") => Place::Test,
            _ => std::mem::take(&mut self.place),
        };
        if self.place == Place::Test && !line.is_empty() {
            self.said.push(line.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_failed_tests_have_said_is_kept() {
        let output = "running 2 tests\ntest good ... ok\ntest bad ... FAILED\n\nsuccesses:\n\n---- good stdout ----\nfine\n\n\
                      successes:\n    good\n\nfailures:\n\n---- bad stdout ----\nfigure: 3\n\nthread 'bad' panicked at a.rs:1:1:\n\
                      no\nstack backtrace:\n   0: main\nnote: more\n\n\nfailures:\n    bad\n\ntest result: FAILED. 1 passed\n\
                      ---- later stdout ----\n";
        let mut failures = Failures::default();
        output.lines().for_each(|line| failures.take(line));
        assert_eq!(
            failures.said(),
            ["---- bad stdout ----", "figure: 3", "thread 'bad' panicked at a.rs:1:1:", "no"]
        );
    }
}
