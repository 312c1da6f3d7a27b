//! The names of instructions.

use super::suggest::nearest;

macro_rules! keywords {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// The name of an instruction; case does not count in a Dockerfile.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Keyword {
            $(#[doc = $doc] $variant,)*
        }

        impl Keyword {
            /// Every keyword.
            const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in upper case.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

keywords! {
    Add "ADD" "Files from the context, from a URL or from git, archives unpacked.",
    Arg "ARG" "A variable of the build.",
    Cmd "CMD" "The default command.",
    Copy "COPY" "Files from the context, a stage or an image.",
    Entrypoint "ENTRYPOINT" "The default executable.",
    Env "ENV" "Environment variables of the image.",
    Expose "EXPOSE" "Ports that the image listens on.",
    From "FROM" "The start of a stage.",
    Healthcheck "HEALTHCHECK" "How to test that a container works.",
    Label "LABEL" "Metadata of the image.",
    Maintainer "MAINTAINER" "The author of the image.",
    Onbuild "ONBUILD" "An instruction for images built on this one.",
    Run "RUN" "A command to run in the build.",
    Shell "SHELL" "The shell of the shell form.",
    Stopsignal "STOPSIGNAL" "The signal that stops a container.",
    User "USER" "The user and group to run as.",
    Volume "VOLUME" "Mount points for data.",
    Workdir "WORKDIR" "The folder to run in.",
}

impl Keyword {
    /// The keyword that `text` is, in whatever case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|keyword| keyword.name().eq_ignore_ascii_case(text))
    }

    /// The keyword that was probably meant by `text`.
    pub(crate) fn nearest(text: &str) -> Option<&'static str> {
        let names: Vec<&str> = Self::ALL.iter().map(|keyword| keyword.name()).collect();
        nearest(text, &names)
    }
}
