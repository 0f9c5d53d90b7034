//! What a guest sees of its process: arguments, environment, standard streams.

use crate::container::{Container, bytes};

#[test]
#[ignore = "needs root and the engine's bundle"]
fn arguments_arrive_as_they_are() {
    let stdout = "hello from C\nargv[0]=app.wasm\nargv[1]=a b\nargv[2]=\nargv[3]=ü\n";
    let ended = Container::new("guest.wasm")
        .arg0("app.wasm")
        .args(["a b", "", "ü"])
        .run();
    ended.expect(0, stdout, "hello on stderr\n");
    let stdout = stdout.replace("from C", "from Rust");
    let ended = Container::new("rust-hello.wasm")
        .arg0("app.wasm")
        .args(["a b", "", "ü"])
        .run();
    ended.expect(0, &stdout, "hello on stderr\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn arguments_and_variables_need_not_be_utf8() {
    let ended = Container::new("guest.wasm").args([bytes(b"\xff\xfe")]).run();
    assert_eq!(
        ended.stdout,
        "hello from C\nargv[0]=/app.wasm\nargv[1]=\u{fffd}\u{fffd}\n"
    );
    let ended = Container::new("guest.wasm")
        .args(["env"])
        .env(bytes(b"A=\xe9"))
        .run();
    ended.expect_stdout("A=\u{fffd}\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_environment_is_the_containers() {
    for guest in ["guest.wasm", "rust-hello.wasm"] {
        let ended = Container::new(guest)
            .args(["env"])
            .env("PATH=/usr/bin:/bin")
            .env("PODWASM_DRAIN=2s")
            .env("EMPTY=")
            .env("Z=last = not quite")
            .env("A=last")
            .run();
        ended.expect_stdout("PATH=/usr/bin:/bin\nEMPTY=\nZ=last = not quite\nA=last\n");
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_environment_may_be_empty() {
    Container::new("guest.wasm").args(["env"]).run().expect_stdout("");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn input_goes_through() {
    let input: Vec<u8> = (0..3_000_000u32).map(|at| b'a' + (at % 26) as u8).collect();
    let ended = Container::new("guest.wasm").args(["cat"]).run_with_input(&input);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    assert!(
        ended.stdout.as_bytes() == input,
        "{} of {} bytes",
        ended.stdout.len(),
        input.len()
    );
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn closed_streams_stay_closed_for_the_guest() {
    let ended = Container::new("guest.wasm")
        .args(["streams"])
        .redirect("0<&- 2>&-")
        .run();
    ended.expect_stdout(
        "0: read Bad file descriptor\n1: read Bad file descriptor\n2: read Bad file descriptor\n",
    );
    Container::new("hello.wasm")
        .redirect("0<&- 1>&- 2>&-")
        .run()
        .expect_stdout("");
    Container::new("guest.wasm")
        .args(["trap"])
        .redirect("0<&- 1>&- 2>&-")
        .run()
        .expect(134, "", "");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_closed_pipe_is_an_error_for_the_guest() {
    let ended = Container::new("guest.wasm")
        .args(["cat"])
        .redirect("1>/dev/full")
        .run_with_input(b"some");
    ended.expect(1, "", "guest: cannot write stdout: No space left on device\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn time_passes() {
    let ended = Container::new("rust-hello.wasm").args(["time"]).run();
    assert!(ended.stdout.starts_with("slept, in 20"), "{ended:?}");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_real_program_does_its_work() {
    let documents = concat!(
        r#"{"title": "A wasm pod", "tags": ["wasm", "pod"], "size": 3}"#,
        "\n",
        r#"["The pod, the pod.", {"nested": "Wasm"}]"#,
        "\n",
    );
    let report = concat!(
        r#"{"documents":2,"strings":5,"words":10,"distinct":4,"#,
        r#""top":[["pod",4],["wasm",3],["the",2],["a",1]]}"#,
        "\n",
    );
    Container::new("wordcount.wasm")
        .run_with_input(documents.as_bytes())
        .expect_stdout(report);
    let ended = Container::new("wordcount.wasm")
        .args(["/in.json"])
        .file("/in.json", documents)
        .run();
    ended.expect_stdout(report);
    let ended = Container::new("wordcount.wasm").run_with_input(b"[1,");
    ended.expect(
        1,
        "",
        "wordcount: stdin:1: EOF while parsing a value at line 1 column 3\n",
    );
}
