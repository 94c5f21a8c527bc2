//! Verdicts as JUnit XML, which every CI system shows: one test case for each question.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::{Entry, Verdict, Verdicts};

pub(crate) fn text(verdicts: &Verdicts) -> anyhow::Result<String> {
    let mut report = Report::new("touchstone gate");
    if let Some(problem) = &verdicts.problem {
        let mut suite = TestSuite::new("the comparison");
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(problem.as_str());
        suite.add_test_case(TestCase::new("something can be compared", status));
        report.add_test_suite(suite);
    }
    let mut suites: Vec<TestSuite> = Vec::new();
    for entry in &verdicts.entries {
        let op = entry.op();
        let index =
            suites.iter().position(|suite| suite.name.as_str() == op).unwrap_or_else(|| {
                suites.push(TestSuite::new(op));
                suites.len() - 1
            });
        suites[index].add_test_case(case(entry));
    }
    report.add_test_suites(suites);
    Ok(report.to_string()?)
}

fn case(entry: &Entry) -> TestCase {
    let mut status = match entry.verdict {
        Verdict::Wrong | Verdict::Missing | Verdict::Slower => {
            TestCaseStatus::non_success(NonSuccessKind::Failure)
        }
        Verdict::Unclear => TestCaseStatus::skipped(),
        Verdict::Faster | Verdict::Same | Verdict::New => TestCaseStatus::success(),
    };
    if !matches!(status, TestCaseStatus::Success { .. }) {
        status.set_message(entry.reason.as_str());
        status.set_type(entry.verdict.name());
    }
    let mut case = TestCase::new(format!("{} on {}", entry.variant, entry.case), status);
    case.set_classname(format!("{}.{}", entry.op(), entry.workload));
    if let Some(timing) = &entry.current {
        case.set_time(std::time::Duration::from_nanos(timing.median_ns.max(0.0) as u64));
    }
    case
}
