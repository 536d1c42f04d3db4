//! Planned faults: the n-th call, of any function or of a certain one, returns a chosen code.

use crate::code::Code;

/// A planned fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Counts only calls of this function, if given.
    pub function: Option<String>,
    /// The number of the call that fails, from 1.
    pub nth: u64,
    /// The code that the call returns.
    pub code: Code,
    /// The context is lost, too. Codes that always have this effect in the driver need no flag.
    pub sticky: bool,
    /// The call succeeds; the operation that it submitted fails when it runs.
    pub asynchronous: bool,
}

/// The error of a fault that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error(
    "wanted <n>:<code> or <function>#<n>:<code>, with :sticky or :async after it, as in cuMemAlloc_v2#2:2"
)]
pub struct BadFault;

impl Fault {
    /// Parses a fault, written as in SEQSTREAM_SIM_FAULT.
    pub fn parse(text: &str) -> Result<Self, BadFault> {
        let mut parts = text.split(':');
        let place = parts.next().ok_or(BadFault)?;
        let (function, nth) = match place.split_once('#') {
            Some((function, nth)) => (Some(function.to_owned()), nth),
            None => (None, place),
        };
        let code = parts
            .next()
            .and_then(|code| code.parse().ok())
            .map(Code)
            .ok_or(BadFault)?;
        let nth = nth.parse().ok().filter(|nth| *nth > 0).ok_or(BadFault)?;
        let mut fault = Self {
            function,
            nth,
            code,
            sticky: code.is_sticky(),
            asynchronous: false,
        };
        for flag in parts {
            match flag {
                "sticky" => fault.sticky = true,
                "async" => fault.asynchronous = true,
                _ => return Err(BadFault),
            }
        }
        Ok(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        let fault = Fault::parse("3:2").unwrap();
        assert_eq!(
            (fault.function, fault.nth, fault.code, fault.sticky),
            (None, 3, Code(2), false)
        );
        let fault = Fault::parse("cuLaunchKernel#2:700:async").unwrap();
        assert_eq!(fault.function.as_deref(), Some("cuLaunchKernel"));
        assert!(fault.sticky && fault.asynchronous);
        for bad in ["", "3", "x:2", "0:2", "1:2:loud", "1:x"] {
            assert!(Fault::parse(bad).is_err(), "{bad}");
        }
    }
}
