//! The rules, as data: what each is called and what it is for.

macro_rules! rules {
    ($($name:ident $description:literal,)*) => {
        /// A check of a Dockerfile. Names and texts of the first group are BuildKit's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $description] $name,)*
        }

        impl Rule {
            /// Every rule, BuildKit's first.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name that settings and reports know it by.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What is to be kept, or what is wrong, in one line.
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$name => $description,)*
                }
            }
        }
    };
}

rules! {
    StageNameCasing "Stage names should be lowercase",
    FromAsCasing "The 'as' keyword should match the case of the 'from' keyword",
    NoEmptyContinuation "Empty continuation lines will become errors in a future release",
    ConsistentInstructionCasing "All commands within the Dockerfile should use the same casing (either upper or lower)",
    DuplicateStageName "Stage names should be unique",
    ReservedStageName "Reserved words should not be used as stage names",
    JSONArgsRecommended "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    MaintainerDeprecated "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    UndefinedArgInFrom "FROM command must use declared ARGs",
    WorkdirRelativePath "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    UndefinedVar "Variables should be defined before their use",
    MultipleInstructionsDisallowed "Multiple instructions of the same type should not be used in the same stage",
    LegacyKeyValueFormat "Legacy key/value format with whitespace separator should not be used",
    InvalidBaseImagePlatform "Base image platform does not match expected target platform",
    RedundantTargetPlatform "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    SecretsUsedInArgOrEnv "Sensitive data should not be used in the ARG or ENV commands",
    InvalidDefaultArgInFrom "Default value for global ARG results in an empty or invalid base image name",
    FromPlatformFlagConstDisallowed "FROM --platform flag should not use a constant value",
    CopyIgnoredFile "Attempting to Copy file that is excluded by .dockerignore",
    InvalidDefinitionDescription "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    ExposeProtoCasing "Protocol in EXPOSE instruction should be lowercase",
    ExposeInvalidFormat "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    InvalidEncoding "A Dockerfile should be UTF-8",
    InvalidOnbuildTrigger "An ONBUILD trigger should be an instruction that can be built",
    OtherFrontend "Only BuildKit's own Dockerfile frontend is known: no other is fetched",
    UnknownCheck "Settings of checks should name rules that exist",
    EmptyRun "RUN should have a command",
    DuplicateHeredocName "Here-documents of one instruction should have names of their own",
    CopyOntoFile "Several sources should be copied to a folder",
    GlobalArgInRun "A stage should declare the global ARGs that it uses",
    UnpinnedBaseImage "Base images should have a version",
    AddWithoutChecksum "What is fetched should have a checksum",
    HeredocWithoutErrexit "Scripts of several commands should end when one fails",
    PipeWithoutPipefail "Pipes should fail when a command in them does",
    AptListsLeft "Package lists should not stay in a layer",
}

impl Rule {
    /// Whether BuildKit has the rule.
    pub fn is_buildkit(self) -> bool {
        self <= Self::ExposeInvalidFormat
    }

    /// Whether the rule is off unless the settings name it.
    pub fn is_experimental(self) -> bool {
        matches!(self, Self::CopyIgnoredFile | Self::InvalidDefinitionDescription)
            || self >= Self::UnpinnedBaseImage
    }

    /// The rule of this name; case counts, as in BuildKit.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.name() == name)
    }

    /// The section of the manual's page of checks (`docs/checks.md`) that explains the rule.
    pub fn page(self) -> String {
        format!("docs/checks.md#{}", self.name().to_lowercase())
    }
}
