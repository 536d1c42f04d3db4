//! Reads `--share`: a share as it is written, or the share of a task of a Slurm job array.

use super::Failure;
use seqstream::pipeline::Share;
use seqstream::untrusted::Shown;

/// The value of `--share` that takes the share from a Slurm job array.
pub const SLURM: &str = "slurm";

/// A share, and what the user should know about where it comes from.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// The share.
    pub share: Share,
    /// Which task of an array it is, if an array gave it.
    pub notice: Option<String>,
    /// What may be wrong with the array.
    pub warning: Option<String>,
}

/// Reads the value of `--share`; `variable` looks up a variable of the environment.
///
/// # Errors
/// [`Failure::Usage`] if the value is not a share, or the job array does not give one.
pub fn read(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Asked, Failure> {
    if text == SLURM {
        return of_slurm(variable);
    }
    let share = text.parse().map_err(|()| {
        usage(
            format!("--share {} is not a share", Shown(text)),
            "write i/n with i from 1 to n: --share 1/4 to --share 4/4; or slurm in a job array",
        )
    })?;
    Ok(Asked {
        share,
        notice: None,
        warning: None,
    })
}

/// Returns the share of the task that this process belongs to. Only an array whose ids follow one
/// another is accepted: with ids left out, the shares of the missing tasks would be computed by
/// nobody, and the numbers of the others would be wrong.
fn of_slurm(variable: &dyn Fn(&str) -> Option<String>) -> Result<Asked, Failure> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    if given(ID).is_none() {
        let where_ = match given("SLURM_JOB_ID") {
            Some(job) => format!("Slurm job {} is not a job array", Shown(&job)),
            None => format!("this is not a task of a Slurm job array: {ID} is not set"),
        };
        return Err(usage(
            format!("--share {SLURM}: {where_}"),
            "submit an array, such as `sbatch --array=0-3 job.sh`; or write the share as --share 1/4 to --share 4/4",
        ));
    }
    let number = |name: &str| -> Result<u64, Failure> {
        let what = match given(name) {
            None => "is not set".to_owned(),
            Some(text) => match text.parse() {
                Ok(number) => return Ok(number),
                Err(_) => format!("is {}, not a number", Shown(&text)),
            },
        };
        Err(usage(
            format!("--share {SLURM}: {name} {what}"),
            "Slurm sets it for every task of an array, so the script should not change it; or write the share as --share 1/4",
        ))
    };
    let (id, count) = (number(ID)?, number("SLURM_ARRAY_TASK_COUNT")?);
    let (first, last) = (
        number("SLURM_ARRAY_TASK_MIN")?,
        number("SLURM_ARRAY_TASK_MAX")?,
    );
    let step = number("SLURM_ARRAY_TASK_STEP")?;
    let wrong = |what: String| {
        usage(
            format!("--share {SLURM}: {what}"),
            format!(
                "submit ids that follow one another, such as `sbatch --array=0-{}`; to repeat single tasks of an array, \
                 give each its share as --share i/n",
                count.max(2) - 1
            ),
        )
    };
    if step != 1 {
        return Err(wrong(format!(
            "the array counts in steps of {step} (SLURM_ARRAY_TASK_STEP)"
        )));
    }
    if last.checked_sub(first).and_then(|n| n.checked_add(1)) != Some(count) {
        return Err(wrong(format!(
            "the array has {count} tasks with ids from {first} to {last}, so some ids between them are missing"
        )));
    }
    if !(first..=last).contains(&id) {
        return Err(wrong(format!(
            "task {id} is not one of the array's tasks {first} to {last}"
        )));
    }
    let share = Share {
        index: id - first + 1,
        of: count,
    };
    let job = given("SLURM_ARRAY_JOB_ID").unwrap_or_default();
    Ok(Asked {
        share,
        notice: Some(format!(
            "share {share}: task {id} of {first} to {last} of the Slurm array {}",
            Shown(&job)
        )),
        // Tasks that are submitted once more look like an array of their own.
        warning: (first > 1).then(|| {
            format!(
                "the Slurm array begins at id {first}, and its {count} tasks are taken for all shares: to repeat tasks of \
                 an earlier array, give each its share as --share i/n"
            )
        }),
    })
}

const ID: &str = "SLURM_ARRAY_TASK_ID";

fn usage(message: String, hint: impl Into<String>) -> Failure {
    Failure::Usage {
        message,
        hint: Some(hint.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the variables of a task: its id, COUNT, MIN, MAX and STEP.
    fn task(numbers: [&str; 5]) -> impl Fn(&str) -> Option<String> {
        let names = [
            ID,
            "SLURM_ARRAY_TASK_COUNT",
            "SLURM_ARRAY_TASK_MIN",
            "SLURM_ARRAY_TASK_MAX",
            "SLURM_ARRAY_TASK_STEP",
        ];
        let values = numbers.map(str::to_owned);
        move |name| match names.iter().position(|n| *n == name) {
            Some(i) => Some(values[i].clone()).filter(|value| value != "unset"),
            None => (name == "SLURM_ARRAY_JOB_ID").then(|| "77".into()),
        }
    }

    #[test]
    fn tasks_that_follow_one_another_are_the_shares() {
        for (first, count) in [(0, 4), (1, 4), (5, 3), (0, 1), (4_000_000, 2)] {
            let last = first + count - 1;
            for id in first..=last {
                let numbers = [id, count, first, last, 1].map(|n: u64| n.to_string());
                let asked = read(SLURM, &task(numbers.each_ref().map(|n| n.as_str()))).unwrap();
                assert_eq!((asked.share.index, asked.share.of), (id - first + 1, count));
                assert_eq!(asked.warning.is_some(), first > 1, "{first}");
                let notice = asked.notice.unwrap();
                assert!(notice.contains(&format!("task {id} of")), "{notice}");
                assert!(notice.contains("Slurm array 77"), "{notice}");
            }
        }
    }

    #[test]
    fn an_array_that_gives_no_shares_is_refused() {
        for (numbers, says) in [
            (["2", "4", "0", "6", "2"], "counts in steps of 2"),
            (["0", "4", "0", "3", "0"], "counts in steps of 0"),
            (
                ["3", "3", "0", "3", "1"],
                "some ids between them are missing",
            ),
            (
                ["0", "4", "3", "0", "1"],
                "some ids between them are missing",
            ),
            (
                ["0", "0", "0", "18446744073709551615", "1"],
                "some ids between them",
            ),
            (
                ["4", "4", "0", "3", "1"],
                "task 4 is not one of the array's tasks 0 to 3",
            ),
            (["0", "4", "1", "4", "1"], "task 0 is not one of"),
            (
                ["x", "4", "0", "3", "1"],
                "SLURM_ARRAY_TASK_ID is x, not a number",
            ),
            (
                ["0", "-4", "0", "3", "1"],
                "SLURM_ARRAY_TASK_COUNT is -4, not a number",
            ),
            (
                ["0", "unset", "0", "3", "1"],
                "SLURM_ARRAY_TASK_COUNT is not set",
            ),
            (
                ["0", "4", "unset", "3", "1"],
                "SLURM_ARRAY_TASK_MIN is not set",
            ),
            (["0", "4", "0", "", "1"], "SLURM_ARRAY_TASK_MAX is not set"),
            (
                ["0", "4", "0", "3", "unset"],
                "SLURM_ARRAY_TASK_STEP is not set",
            ),
            (
                ["unset", "4", "0", "3", "1"],
                "not a task of a Slurm job array",
            ),
            (["", "4", "0", "3", "1"], "not a task of a Slurm job array"),
        ] {
            let failure = read(SLURM, &task(numbers)).unwrap_err();
            let said = failure.to_string();
            assert!(said.contains(says), "{numbers:?}: {said}");
            assert_eq!(failure.code(), 2);
            assert!(failure.hint().is_some_and(|hint| hint.contains("--share")));
        }
    }

    #[test]
    fn a_job_that_is_no_array_is_named() {
        let single = |name: &str| (name == "SLURM_JOB_ID").then(|| "12".to_owned());
        let said = read(SLURM, &single).unwrap_err();
        assert!(said.to_string().contains("Slurm job 12 is not a job array"));
        assert!(said.hint().unwrap().contains("sbatch --array=0-3"));
    }

    #[test]
    fn a_share_that_is_written_needs_no_array() {
        let asked = read("2/3", &|_| None).unwrap();
        assert_eq!(asked.share, Share { index: 2, of: 3 });
        assert_eq!((asked.notice, asked.warning), (None, None));
        for wrong in ["", "1", "0/2", "3/2", "Slurm", "slurm/4"] {
            let failure = read(wrong, &|_| None).unwrap_err();
            assert!(
                failure.hint().unwrap().contains("slurm in a job array"),
                "{wrong}"
            );
        }
    }
}
