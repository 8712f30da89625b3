//! What a prompt asks for, judged by its words.

use super::words;

/// One thing that a prompt can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    ReadMails,
    ReadCalendar,
    ReadChannel,
    ListChannels,
    ListIssues,
    ListPullRequests,
    SearchNotes,
    ListLabels,
    DraftMail,
    SendDraft,
    SendMail,
    PostMessage,
    CreateEvent,
    CreateIssue,
    CreateNote,
    MarkRead,
    TrashMail,
}

impl Intent {
    /// Whether it changes nothing.
    pub(super) fn reads(self) -> bool {
        use Intent::{
            ListChannels, ListIssues, ListLabels, ListPullRequests, ReadCalendar, ReadChannel, ReadMails, SearchNotes,
        };
        matches!(
            self,
            ReadMails
                | ReadCalendar
                | ReadChannel
                | ListChannels
                | ListIssues
                | ListPullRequests
                | SearchNotes
                | ListLabels
        )
    }

    /// What it does in words, and parts of the names of tools that do it, the best first.
    pub(super) fn tools(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::ReadMails => ("read mails", &["fetch_mails", "fetch_emails", "search_emails", "gmail_list_threads"]),
            Self::ReadCalendar => ("read the calendar", &["list_events", "search_events"]),
            Self::ReadChannel => ("read a channel", &["conversation_history", "channel_history"]),
            Self::ListChannels => ("list channels", &["list_channels"]),
            Self::ListIssues => ("list issues", &["issues_list", "list_issues"]),
            Self::ListPullRequests => ("list pull requests", &["pull_requests_list", "list_pull_requests"]),
            Self::SearchNotes => ("search notes", &["notes-search", "notes_search", "notion-search"]),
            Self::ListLabels => ("list labels", &["list_labels", "labels_list"]),
            Self::DraftMail => ("draft a mail", &["create_draft"]),
            Self::SendDraft => ("send a draft", &["send_draft"]),
            Self::SendMail => ("send a mail", &["gmail_send_message", "send_email", "send_mail"]),
            Self::PostMessage => ("post a message", &["slack_send_message", "post_message"]),
            Self::CreateEvent => ("create an event", &["create_event"]),
            Self::CreateIssue => ("create an issue", &["issue_create", "create_issue"]),
            Self::CreateNote => ("create a page", &["create-page", "create_page"]),
            Self::MarkRead => ("mark mails as read", &["batch_modify_messages", "modify_message_labels"]),
            Self::TrashMail => ("trash a mail", &["trash_message"]),
        }
    }
}

/// All that one segment of a prompt asks for.
pub(super) fn intents(segment: &str) -> Vec<Intent> {
    let text = segment.to_lowercase();
    let said: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric() && c != '#').filter(|word| !word.is_empty()).collect();
    let any = |wanted: &[&str]| said.iter().any(|word| wanted.contains(word));
    let channel = said.iter().any(|word| word.len() > 1 && word.starts_with('#'));
    let address = words::address(segment).is_some();
    let makes = any(&["create", "add", "schedule", "book", "make", "open", "file"]);
    let reads = any(&[
        "fetch",
        "list",
        "show",
        "search",
        "find",
        "read",
        "summarize",
        "summarise",
        "summary",
        "check",
        "get",
        "last",
        "latest",
        "unread",
        "what",
        "look",
        "triage",
        "newest",
        "recent",
    ]);
    let mail = any(&["mail", "mails", "email", "emails", "inbox", "mailbox", "unread"]);
    let chat = channel || any(&["slack", "channel"]);
    let sends = any(&["send", "write", "forward", "reply", "email", "mail"]) && address;
    let posts = any(&["post", "send", "tell", "announce", "write", "share"]) && chat && !address;
    let marks = any(&["mark"]) && any(&["read"]);
    let drafts = any(&["draft"]);
    let calendar = any(&["calendar", "agenda", "meeting", "meetings", "event", "events", "appointments"]);
    let mut found = Vec::new();
    let mut note = |wanted: bool, intent| {
        if wanted {
            found.push(intent);
        }
    };
    note(mail && reads && (!marks || any(&["fetch", "list", "unread", "last"])), Intent::ReadMails);
    note(calendar && !(makes && any(&["event", "meeting", "appointment"])), Intent::ReadCalendar);
    note(any(&["channels"]) && !posts, Intent::ListChannels);
    note(chat && reads && !any(&["channels"]) && (!posts || !mail && !calendar && any(&["read"])), Intent::ReadChannel);
    note(any(&["issues"]), Intent::ListIssues);
    note(any(&["pull", "pulls"]), Intent::ListPullRequests);
    note(any(&["notes", "notebook"]) && !makes, Intent::SearchNotes);
    note(any(&["labels"]), Intent::ListLabels);
    note(drafts && address, Intent::DraftMail);
    note(drafts && !address && any(&["send"]), Intent::SendDraft);
    note(sends && !drafts, Intent::SendMail);
    note(posts, Intent::PostMessage);
    note(makes && any(&["event", "meeting", "appointment"]), Intent::CreateEvent);
    note(makes && any(&["issue"]), Intent::CreateIssue);
    note(makes && any(&["page", "note"]), Intent::CreateNote);
    note(marks, Intent::MarkRead);
    note(any(&["trash"]), Intent::TrashMail);
    found
}
