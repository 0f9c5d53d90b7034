//! `image`, `command`, `args`, `workingDir`, `env`, `stdin`, `tty`, `terminationMessagePath`, logs and exit codes.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::prelude::*;

use super::{folder, guest_c, look, output};

on_nodes! {
    async fn command_and_args_replace_the_images(node: &Node) {
        node.podwasm().await?;
        let image = Image::linux().program("/bin/app", guest("guest.wasm")).entrypoint(["/bin/app", "exit"]).cmd(["1"]);
        let image = node.push("command", &image).await?;
        let pod = node.pod("command").run().await?;
        let code = async |name: &str, command: &[&str], args: &[&str]| -> Result<i32> {
            let container = pod.container(name).image(&image).command(command.iter().copied()).args(args.iter().copied());
            container.start().await?.wait_exit().await
        };
        assert_eq!(code("image", &[], &[]).await?, 1);
        assert_eq!(code("args", &[], &["2"]).await?, 2);
        assert_eq!(code("command", &["/bin/app", "exit", "3"], &[]).await?, 3);
        assert_eq!(code("both", &["app"], &["exit", "4"]).await?, 4);
        pod.remove().await?;
    }

    async fn working_dir_is_where_relative_paths_start(node: &Node) {
        node.podwasm().await?;
        let files = Layer::new().file("/srv/a/text", "in a\n", 0o644).file("/srv/b/text", "in b\n", 0o644);
        let image = node.push("cwd", &guest_image("guest").layer(files).working_dir("/srv/a")).await?;
        let pod = node.pod("cwd").run().await?;
        let images = pod.container("image").image(&image).args(["cat", "text"]).start().await?;
        assert_eq!(output(&images).await?, "in a\n");
        let pods = pod.container("pod").image(&image).args(["cat", "text"]).working_dir("/srv/b").start().await?;
        assert_eq!(output(&pods).await?, "in b\n");
        pod.remove().await?;
    }

    async fn env_reaches_the_guest_as_it_is(node: &Node) {
        node.podwasm().await?;
        let image = node.push("env", &guest_image("guest").env("FROM", "image").env("KEPT", "yes")).await?;
        let pod = node.pod("env").run().await?;
        let container = pod.container("c").image(&image).args(["env"]).env("FROM", "pod").env("EMPTY", "");
        let container = container.env("TEXT", "two words, ü = \"ü\"").start().await?;
        let seen = output(&container).await?;
        for variable in ["FROM=pod", "KEPT=yes", "EMPTY=", "TEXT=two words, ü = \"ü\"", "HOSTNAME=env"] {
            assert_eq!(seen.lines().filter(|line| *line == variable).count(), 1, "{variable} in {seen}");
        }
        ensure!(!seen.contains("PODWASM") && !seen.contains("FROM=image"), "{seen}");
        pod.remove().await?;
    }

    async fn stdin_is_what_is_attached(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("stdin").run().await?;
        let without = pod.container("without").image(&image).args(["cat"]).start().await?;
        assert_eq!(output(&without).await?, "");

        let container = pod.container("with").image(&image).args(["read"]).config(|config| config.stdin = true);
        let container = container.start().await?;
        container.wait_stdout("reading").await?;
        stdin(node, container.id())?.write_all(b"a line from outside\n")?;
        container.wait_stdout("a line from outside\n").await?;
        pod.remove().await?;
    }

    async fn tty_is_seen_by_the_guest(node: &Node) {
        let image = look(node).await?;
        let pod = node.pod("tty").run().await?;
        let without = pod.container("without").image(&image).args(["streams"]).start().await?;
        assert_eq!(without.wait_exit().await?, 0);
        // Its standard input is /dev/null, a character device, and WASI has no better mark of a terminal.
        let logs = without.logs()?;
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("stdin is a terminal\nstdout is no terminal\n", "stderr is no terminal\n"));

        let with = pod.container("with").image(&image).args(["streams"]).tty().config(|config| config.stdin = true);
        let with = with.start().await?;
        let seen = output(&with).await?.replace('\r', "");
        assert_eq!(seen, "stdin is a terminal\nstdout is a terminal\nstderr is a terminal\n");
        pod.remove().await?;
    }

    async fn termination_message_is_written_to_its_file(node: &Node) {
        let image = guest_c(node).await?;
        let file = format!("{}/message", folder(node, "termination")?);
        std::fs::write(node.path(&file), "")?;
        let pod = node.pod("message").run().await?;
        let container = pod.container("c").image(&image).args(["write", "/dev/termination-log", "out of work"]);
        let container = container.mount(&file, "/dev/termination-log", false).start().await?;
        assert_eq!(output(&container).await?, "");
        assert_eq!(std::fs::read_to_string(node.path(&file))?, "out of work");
        pod.remove().await?;
    }

    async fn exit_codes_are_the_guests(node: &Node) {
        let image = guest_c(node).await?;
        let unknown = node.push("unknown", &guest_image("unknown-import")).await?;
        let pod = node.pod("codes").run().await?;
        for (name, image, arguments, code) in [
            ("none", &image, vec!["exit", "0"], 0),
            ("some", &image, vec!["exit", "200"], 200),
            ("trap", &image, vec!["trap"], 134),
            ("unstartable", &unknown, vec![], 126),
        ] {
            let container = pod.container(name).image(image).args(arguments).start().await?;
            assert_eq!(container.wait_exit().await?, code, "{name}: {:?}", container.logs()?);
            let status = container.status().await?;
            assert_eq!(status.exit_code, code, "{name}");
            assert_eq!(status.reason, if code == 0 { "Completed" } else { "Error" }, "{name}");
        }
        pod.remove().await?;
    }

    async fn logs_keep_the_streams_apart(node: &Node) {
        let image = guest_c(node).await?;
        let pod = node.pod("logs").run().await?;
        let container = pod.container("c").image(&image).start().await?;
        assert_eq!(container.wait_exit().await?, 0);
        let logs = container.logs()?;
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("hello from C\nargv[0]=/guest.wasm\n", "hello on stderr\n"));
        pod.remove().await?;
    }
}

/// The pipe that containerd feeds with what is attached.
fn stdin(node: &Node, id: &str) -> Result<std::fs::File> {
    let io = node.path(format!(
        "/run/containerd/io.containerd.grpc.v1.cri/containers/{id}/io"
    ));
    let run = std::fs::read_dir(&io)?
        .next()
        .with_context(|| format!("nothing in {}", io.display()))??;
    Ok(std::fs::File::options()
        .write(true)
        .open(run.path().join(format!("{id}-stdin")))?)
}
