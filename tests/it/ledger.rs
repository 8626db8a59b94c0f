//! The example `ledger`, used as a command.

use atomic_db::testing::run_concurrently;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Returns the path of the program, which is built with the profile and the features of the tests when
/// the first test needs it. `cargo test --test it` does not build it.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // target/PROFILE/deps/it-HASH
        let test = env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let mut features = vec!["redb"];
        features.extend(cfg!(feature = "dynamodb").then_some("dynamodb"));
        features.extend(cfg!(feature = "postgres").then_some("postgres"));
        features.extend(cfg!(feature = "testing").then_some("testing"));
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--locked", "--quiet", "--example", "ledger"])
            .args(["--features", &features.join(",")])
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .arg("--target-dir")
            .arg(profile.parent().unwrap());
        // Cargo calls the profile of this directory by another name.
        let name = profile.file_name().unwrap();
        let name = if name == "debug" {
            "dev".as_ref()
        } else {
            name
        };
        cargo.arg("--profile").arg(name);
        let built = cargo.output().unwrap();
        assert!(built.status.success(), "{}", text(&built.stderr));
        profile.join("examples").join("ledger")
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the ledger prints UTF-8")
}

/// A directory with a ledger.
struct Books {
    directory: TempDir,
}

impl Books {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Books { directory }
    }

    fn with_account(name: &str) -> Self {
        let books = Books::new();
        books.succeeds(&["open", name]);
        books
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file and returns its path.
    fn write(&self, name: &str, contents: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .arg("--file")
            .arg(self.path("books.redb"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command and returns its output.
    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command that fails with an exit code, and returns its message.
    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.output(arguments);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        message
    }

    #[track_caller]
    fn assert_balance(&self, account: &str, expected: &str) {
        assert_eq!(self.succeeds(&["balance", account]).trim(), expected);
    }

    #[track_caller]
    fn import(&self, path: &str, expected: &str) {
        let imported = self.succeeds(&["import", path]);
        assert_eq!(imported.trim(), expected);
    }
}

fn deposits(amounts: impl IntoIterator<Item = u32>) -> String {
    let line = |amount| format!("{{\"to\":\"Ada\",\"amount\":\"{amount}\"}}\n");
    amounts.into_iter().map(line).collect()
}

#[test]
fn deposits_and_transfers_change_balances_and_statements() {
    let books = Books::with_account("Ada");
    books.succeeds(&["open", "Bob", "--overdraft", "10"]);
    assert_eq!(books.succeeds(&["deposit", "Ada", "12.50"]), "12.50\n");
    assert_eq!(books.succeeds(&["transfer", "Bob", "Ada", "7"]), "-7.00\n");
    let refused = books.fails(&["transfer", "Bob", "Ada", "3.01"], 1);
    assert!(refused.contains("not enough"), "{refused}");
    assert!(books.fails(&["open", "Ada"], 1).contains("already exists"));
    assert!(
        books
            .fails(&["deposit", "Eve", "1"], 1)
            .contains("does not exist")
    );
    books.fails(&["deposit", "Ada", "0"], 2);
    books.fails(&["deposit", "Ada", "1.234"], 2);
    let balances = books.succeeds(&["balance"]);
    let lines: Vec<Vec<&str>> = balances
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines,
        [["19.50", "Ada"], ["-7.00", "Bob"], ["12.50", "total"]]
    );
    let statement = books.succeeds(&["statement", "Ada", "--reverse", "--limit", "1"]);
    assert_eq!(statement.lines().count(), 1);
    assert!(
        statement.contains("7.00") && statement.contains("Bob"),
        "{statement}"
    );
}

/// Imports were remembered by the name of the file, so that another file of the same name was not booked.
#[test]
fn imports_are_known_by_their_contents_and_not_by_the_name_of_the_file() {
    let books = Books::new();
    let first = books.write("2024/in.json", &deposits([1, 2]));
    let second = books.write("2025/in.json", &deposits([3, 4]));
    books.import(&first, "2 lines booked, 0 were already booked");
    books.import(&second, "2 lines booked, 0 were already booked");
    books.assert_balance("Ada", "10.00");
    // The same lines, under another name and in another form.
    let same =
        "\u{feff}{\"amount\": \"1\", \"to\": \"Ada\"}\r\n\r\n{\"amount\":\"2.00\",\"to\":\"Ada\"}";
    let renamed = books.write("renamed.json", same);
    books.import(&first, "0 lines booked, 2 were already booked");
    books.import(&renamed, "0 lines booked, 2 were already booked");
    books.assert_balance("Ada", "10.00");
}

/// Of standard input, only the lines after the number of those booked before were booked.
#[test]
fn standard_input_is_known_by_its_contents() {
    let books = Books::new();
    for (path, amounts, expected) in [
        ("-", [1, 2], "2 lines booked, 0 were already booked"),
        ("-", [3, 4], "2 lines booked, 0 were already booked"),
        (
            "/dev/stdin",
            [5, 6],
            "2 lines booked, 0 were already booked",
        ),
        ("-", [5, 6], "0 lines booked, 2 were already booked"),
    ] {
        let mut command = books.command(&["import", path]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut import = command.spawn().unwrap();
        let mut input = import.stdin.take().unwrap();
        input.write_all(deposits(amounts).as_bytes()).unwrap();
        drop(input);
        let output = import.wait_with_output().unwrap();
        assert_eq!(text(&output.stdout).trim(), expected, "{amounts:?}");
    }
    books.assert_balance("Ada", "21.00");
}

#[test]
fn a_file_that_begins_with_an_earlier_import_is_booked_only_on_request() {
    let books = Books::new();
    let path = books.write("in.json", &deposits([1, 2]));
    books.import(&path, "2 lines booked, 0 were already booked");
    let path = books.write("in.json", &deposits([1, 2, 3, 4]));
    let refused = books.fails(&["import", &path], 1);
    assert!(
        refused.contains("--rest") && refused.contains("--all"),
        "{refused}"
    );
    books.assert_balance("Ada", "3.00");
    let booked = books.succeeds(&["import", &path, "--rest"]);
    assert_eq!(booked, "2 lines booked, 2 were already booked\n");
    books.assert_balance("Ada", "10.00");
    books.import(&path, "0 lines booked, 4 were already booked");

    let path = books.write("all.json", &deposits([1, 2, 5]));
    let booked = books.succeeds(&["import", &path, "--all"]);
    assert_eq!(booked, "3 lines booked, 0 were already booked\n");
    books.assert_balance("Ada", "18.00");
    books.fails(&["import", &path, "--all", "--rest"], 2);
}

#[test]
fn an_import_that_is_killed_resumes_where_it_stopped() {
    let books = Books::new();
    let path = books.write("in.json", &deposits(1..=4_000));
    let mut interrupted = 0;
    for turn in 0..8 {
        let mut import = books
            .command(&["import", &path])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 + 20 * turn));
        interrupted += u32::from(import.try_wait().unwrap().is_none());
        import.kill().unwrap();
        import.wait().unwrap();
    }
    let booked = books.succeeds(&["import", &path]);
    assert!(booked.contains("were already booked"), "{booked}");
    assert!(interrupted > 0, "no import was interrupted");
    books.assert_balance("Ada", "8002000.00");
    assert_eq!(books.succeeds(&["statement", "Ada"]).lines().count(), 4_000);
}

#[test]
fn an_invalid_line_stops_an_import_before_it_begins() {
    let books = Books::with_account("Ada");
    for (contents, problem) in [
        (
            deposits([1]) + "{\"to\":\"Ada\"}",
            "line 2: missing field `amount` at column 12",
        ),
        (
            deposits([1]) + "\n{\"to\":\"Ada\",\"amount\":\"0\"}",
            "line 3: the amount must not be zero",
        ),
        (
            deposits([1]) + "{\"to\":\"A\\nda\",\"amount\":\"1\"}",
            "line 2: an account name",
        ),
        (
            "date,delay,distance,origin,destination\na,1,2,LAX\n".to_owned(),
            "line 2: expected 5 fields, found 4",
        ),
        ("\n".to_owned(), "contains no bookings"),
    ] {
        let path = books.write("in.json", &contents);
        let message = books.fails(&["import", &path], 2);
        assert!(message.contains(problem), "{message}");
    }
    fs::write(books.path("in.json"), b"{}\n\xff\n").unwrap();
    let path = books.path("in.json");
    let message = books.fails(&["import", path.to_str().unwrap()], 2);
    assert!(message.contains("line 2: not valid UTF-8"), "{message}");
    books.assert_balance("Ada", "0.00");
}

/// Quotes of CSV became part of the names, and a byte-order mark was an error.
#[test]
fn csv_may_have_quotes_and_a_byte_order_mark() {
    let books = Books::new();
    let csv = "\u{feff}\"date\",\"delay\",\"distance\",\"origin\",\"destination\"\r\n\
               \"01/01\",\"5\",\"100\",\"LAX\",\"St. Mary's, \"\"MD\"\"\"\r\n\r\n\
               02/02, -3, 50 ,LAX,JFK\r\n";
    let path = books.write("flights.csv", csv);
    books.import(&path, "2 lines booked, 0 were already booked");
    books.assert_balance("St. Mary's, \"MD\"", "100.00");
    books.assert_balance("JFK", "50.00");
    books.assert_balance("LAX", "-150.00");
    assert!(books.succeeds(&["statement", "LAX"]).contains("02/02"));
}

/// A booking whose result could not be shown exited with the code of a refusal, and a script that tried
/// again booked twice.
#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_shown_does_not_hide_a_booking() {
    let books = Books::with_account("Ada");
    books.succeeds(&["open", "Bob"]);
    let path = books.write("in.json", &deposits([1, 2]));
    let full = || fs::File::create("/dev/full").unwrap();
    for arguments in [
        &["deposit", "Ada", "10"][..],
        &["transfer", "Ada", "Bob", "4"],
        &["import", &path],
    ] {
        let output = books.command(arguments).stdout(full()).output().unwrap();
        let message = text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {message}");
        assert!(message.contains("booked, but"), "{arguments:?}: {message}");
        // Nor does it matter if the message cannot be shown either.
        let mut again = books.command(&["deposit", "Bob", "1"]);
        let status = again.stdout(full()).stderr(full()).status().unwrap();
        assert!(status.success());
    }
    books.assert_balance("Ada", "9.00");
    books.assert_balance("Bob", "7.00");
    // A command that books nothing fails.
    for arguments in [&["balance"][..], &["statement", "Ada"], &["export"]] {
        let output = books.command(arguments).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
}

/// Newlines in a note looked like further entries, and escape sequences reached the terminal.
#[test]
fn control_characters_are_escaped() {
    let books = Books::with_account("Ada");
    let forged = "rent\n2026-01-01  1000.00  1000.00\u{1b}[2J\u{202e}\r";
    books.succeeds(&["deposit", "Ada", "1", "--note", forged]);
    let line = |field: &str| {
        let mut line = serde_json::json!({"to": "Ada", "amount": "1"});
        line[field] = forged.into();
        format!("{line}\n")
    };
    let path = books.write("in.json", &(line("note") + &line("date")));
    books.import(&path, "2 lines booked, 0 were already booked");
    let statement = books.succeeds(&["statement", "Ada"]);
    assert_eq!(statement.lines().count(), 3, "{statement}");
    assert!(statement.contains(r"rent\n2026-01-01"), "{statement}");
    assert!(statement.contains(r"\u{1b}[2J\u{202e}\r"), "{statement}");
    let has_effect = |char: char| char != '\n' && (char.is_control() || char == '\u{202e}');
    assert!(!statement.contains(has_effect), "{statement:?}");

    // Messages contain parts of the input, too.
    let path = books.write("bad.json", "{\"\\u001b[2J\\u000a\": 1}");
    let message = books.fails(&["import", &path], 2);
    assert!(
        message.contains(r"unknown field `\u{1b}[2J\n`"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);
    assert!(!message.contains(has_effect), "{message:?}");
}

#[test]
fn commands_that_read_create_nothing() {
    let books = Books::new();
    let reading = [
        &["balance"][..],
        &["balance", "Ada"],
        &["statement", "Ada"],
        &["export"],
    ];
    let writing = [
        &["deposit", "Ada", "1"][..],
        &["transfer", "Ada", "Bob", "1"],
    ];
    for arguments in reading.iter().chain(&writing) {
        let message = books.fails(arguments, 1);
        assert!(message.contains("there is no ledger"), "{message}");
    }
    assert_eq!(fs::read_dir(books.directory.path()).unwrap().count(), 0);

    let file = books.write("books.redb", "");
    for arguments in reading.iter().chain(&writing) {
        let message = books.fails(arguments, 1);
        assert!(message.contains("is empty"), "{message}");
    }
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);

    let file = books.write("books.redb", "not a ledger");
    for arguments in reading.iter().chain(&writing) {
        books.fails(arguments, 1);
    }
    assert_eq!(fs::read(&file).unwrap(), b"not a ledger");
}

#[test]
fn the_file_may_be_given_before_or_after_the_command() {
    let books = Books::with_account("Ada");
    let file = books.path("books.redb");
    let file = file.to_str().unwrap();
    for arguments in [
        &["--file", file, "balance", "Ada"][..],
        &["balance", "--file", file, "Ada"],
        &["balance", "Ada", "--file", file],
    ] {
        let output = Command::new(program()).args(arguments).output().unwrap();
        assert_eq!(text(&output.stdout), "0.00\n", "{arguments:?}");
    }
    let output = Command::new(program()).arg("balance").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--file"));
}

#[test]
fn version_and_help_are_shown() {
    let show = |arguments: &[&str]| {
        let output = Command::new(program()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        text(&output.stdout)
    };
    assert_eq!(
        show(&["--version"]),
        format!("ledger {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = show(&["--help"]);
    assert!(help.contains("deposit Ada 12.50"), "{help}");
    assert!(show(&["import", "--help"]).contains("\"amount\": \"12.50\""));
}

/// The example of the help can be run as it is.
#[test]
fn the_example_of_the_help_works() {
    let books = Books::new();
    let help = books.succeeds(&["--help"]);
    let commands = help
        .lines()
        .filter_map(|line| line.strip_prefix("  ledger "));
    let commands: Vec<&str> = commands.collect();
    assert!(commands.len() >= 5, "{help}");
    for command in commands {
        let mut arguments: Vec<String> = Vec::new();
        for (number, part) in command.split('\'').enumerate() {
            match number % 2 {
                0 => arguments.extend(part.split_whitespace().map(str::to_owned)),
                _ => arguments.push(part.to_owned()),
            }
        }
        let mut ledger = Command::new(program());
        ledger.args(&arguments).current_dir(books.directory.path());
        let output = ledger.output().unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            text(&output.stderr)
        );
    }
    let copied = Command::new(program())
        .args(["--file", "copy.redb", "balance", "Ada"])
        .current_dir(books.directory.path())
        .output()
        .unwrap();
    assert_eq!(text(&copied.stdout), "7.50\n");
}

#[test]
fn a_whole_ledger_is_exported_and_imported() {
    let books = Books::with_account("Ada");
    books.succeeds(&["deposit", "Ada", "12.50", "--note", "first\u{1b}"]);
    let path = books.write("in.json", &deposits([1, 2]));
    books.import(&path, "2 lines booked, 0 were already booked");
    let exported = books.path("books.jsonl");
    let exported = exported.to_str().unwrap();
    // An account, three entries and an import.
    assert_eq!(
        books.succeeds(&["export", exported]),
        "5 records exported\n"
    );
    assert_eq!(
        books.succeeds(&["export"]),
        fs::read_to_string(exported).unwrap()
    );

    let copy = Books::new();
    copy.import(exported, "5 records imported");
    assert_eq!(copy.succeeds(&["export"]), books.succeeds(&["export"]));
    assert_eq!(
        copy.succeeds(&["statement", "Ada"]),
        books.succeeds(&["statement", "Ada"])
    );
    // The copy knows the imports, and can be used like any other ledger.
    copy.import(&path, "0 lines booked, 2 were already booked");
    assert_eq!(copy.succeeds(&["deposit", "Ada", "1"]), "16.50\n");

    // Nothing is overwritten.
    assert!(
        copy.fails(&["import", exported], 1)
            .contains("already exists")
    );
    assert!(
        books
            .fails(&["export", exported], 1)
            .contains("already exists")
    );
    copy.assert_balance("Ada", "16.50");
    assert_eq!(copy.succeeds(&["export"]).lines().count(), 6);
}

#[test]
fn a_damaged_export_leaves_no_ledger_behind() {
    let books = Books::with_account("Ada");
    books.succeeds(&["deposit", "Ada", "1"]);
    let exported = books.succeeds(&["export"]);
    let copy = Books::new();
    for (damaged, problem) in [
        (&exported[..exported.len() - 5], "line 2: "),
        (
            &exported.replace("cents", "Cents"),
            "line 1: `data`: unknown field",
        ),
        (
            &exported.replace("\"sk\"", "\"ks\""),
            "line 1: unknown field `ks`",
        ),
    ] {
        let path = copy.write("books.jsonl", damaged);
        let message = copy.fails(&["import", &path], 2);
        assert!(message.contains(problem), "{message}");
        fs::remove_file(path).unwrap();
        assert_eq!(fs::read_dir(copy.directory.path()).unwrap().count(), 0);
    }
}

/// Most of several commands at the same time failed, because they did not wait for each other.
#[test]
fn commands_at_the_same_time_wait_for_each_other() {
    let books = Books::with_account("Ada");
    run_concurrently(20, |_| {
        books.succeeds(&["deposit", "Ada", "1"]);
        books.succeeds(&["balance", "Ada"]);
    });
    books.assert_balance("Ada", "20.00");
}

#[test]
fn other_commands_succeed_during_an_import() {
    let books = Books::with_account("Ada");
    let path = books.write("in.json", &deposits(1..=4_000));
    let mut import = books
        .command(&["import", &path])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut during = 0;
    while import.try_wait().unwrap().is_none() {
        books.succeeds(&["balance", "Ada"]);
        books.succeeds(&["deposit", "Ada", "1"]);
        during += 1;
    }
    assert!(import.wait().unwrap().success());
    assert!(during > 1, "no command ran during the import");
    books.assert_balance("Ada", &format!("{}.00", 8_002_000 + during));
}

/// Each export is of a state between two commits: the balance of the account is the sum of its entries,
/// which are as many as the import has booked.
#[test]
fn an_export_during_an_import_is_consistent() {
    let books = Books::with_account("Ada");
    let path = books.write("in.json", &deposits(1..=4_000));
    let mut import = books
        .command(&["import", &path])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut sizes = Vec::new();
    while import.try_wait().unwrap().is_none() {
        let (mut cents, mut entries, mut booked, mut sum) = (0, 0, 0, 0);
        for line in books.succeeds(&["export"]).lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let data = &line["data"];
            if let Some(account) = data.get("account") {
                cents = account["cents"].as_i64().unwrap();
                entries = account["entries"].as_u64().unwrap();
            } else if let Some(import) = data.get("import") {
                booked = import["lines"].as_u64().unwrap();
            } else {
                sum += data["entry"]["cents"].as_i64().unwrap();
            }
        }
        assert_eq!((cents, entries), (sum, booked));
        sizes.push(entries);
    }
    assert!(import.wait().unwrap().success());
    assert!(
        sizes.iter().any(|size| (1..4_000).contains(size)),
        "no export ran during the import: {sizes:?}"
    );
}
