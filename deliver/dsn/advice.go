package dsn

import (
	"strings"

	"github.com/postrider/postrider/internal/mail"
)

// What to do about it; {host} is our own name. The texts speak to who sent the message, often by a job that nobody watches.
const (
	adviseAddress = "Most often this means that there is no such mailbox. Look for a mistake in the address, or ask " +
		"the recipient for the right one; then send the message again."
	adviseMoved    = "The recipient has another address now. Send the message there."
	adviseDisabled = "The mailbox exists but takes no mail at present. Reach the recipient some other way."
	adviseFull     = "The mailbox is full. Tell the recipient some other way to make room, then send the message again."
	adviseFullYet  = "The mailbox is full. Tell the recipient some other way to make room."
	adviseSize     = "The message is too big for the server. Make it smaller, or put the big part where it can be " +
		"fetched and send a link."
	adviseDomain = "There is no mail server for what stands after the @ of the address. Look for a mistake in it. If it " +
		"is right, the domain is gone or takes no mail."
	adviseSender = "The server does not take mail from your sender address. Use one that exists and that you may use " +
		"there; the administrator of {host} can have sender addresses rewritten."
	adviseUnproven = "The server could not make sure that the message comes from whom it claims (SPF, DKIM or DMARC). " +
		"Sending it again will not help. The administrator of your domain has to allow {host}, or the mail system it " +
		"relays to, to send for the domain."
	advisePolicy = "The server refuses the message by its rules; the text above may say which. Sending it again " +
		"unchanged will not help. If you cannot tell why, show this report to the administrator of {host}."
	adviseOwnRules = "{host} is set up not to send this. If you think that it should, show this report to its " +
		"administrator."
	adviseLogin = "{host} could not log in at the server that is to take its mail. The message is not to blame: show this " +
		"report to the administrator of {host}, who has to check user name and password."
	adviseTLS = "The connection to the server was not as safe as it has to be (TLS). The message is not to blame: show " +
		"this report to the administrator of {host}."
	adviseLoop = "The message went round in circles between mail servers. Show this report to the administrator of {host}."
	adviseUTF8 = "The server cannot take characters beyond ASCII in addresses or header. Use an address without them."
	adviseOurs = "This is trouble of {host}, not of your message. Show this report to the administrator there, and send the " +
		"message again when it is over."
	adviseAgain = "Send the message again later. If it keeps failing, show this report to the administrator of {host}."
	adviseOther = "If you cannot tell from this what is wrong, show this report to the administrator of {host}."
)

// advice says what the sender can do. It is silent about success, and about a delay, where there is nothing to do, unless
// somebody can help it on.
func advice(r *Report, result *mail.Result) string {
	text := adviceText(result)
	switch r.Action {
	case mail.Failed:
	case mail.Delayed:
		switch text {
		case adviseLogin, adviseTLS:
		case adviseFull:
			text = adviseFullYet
		default:
			return ""
		}
	default:
		return ""
	}
	return strings.ReplaceAll(text, "{host}", r.ReportingMTA)
}

func adviceText(result *mail.Result) string {
	if login(result) {
		return adviseLogin
	}
	c := result.Status()
	if c[1] == 0 && result.Remote {
		c = codeOf(result)
	}
	switch c[1] {
	case 1:
		return adviceOnAddress(c[2])
	case 2:
		return adviceOnMailbox(c[2])
	case 3:
		if c[2] == 4 {
			return adviseSize
		}
	case 4:
		return adviceOnNetwork(c)
	case 6:
		if 7 <= c[2] && c[2] <= 10 {
			return adviseUTF8
		}
	case 7:
		return adviceOnPolicy(result, c[2])
	}
	return adviceOther(result, c)
}

func adviceOnAddress(detail int) string {
	switch detail {
	case 2, 10:
		return adviseDomain
	case 6:
		return adviseMoved
	case 7, 8:
		return adviseSender
	}
	return adviseAddress
}

func adviceOnMailbox(detail int) string {
	switch detail {
	case 1:
		return adviseDisabled
	case 2:
		return adviseFull
	case 3:
		return adviseSize
	}
	return adviseOther
}

func adviceOnNetwork(c mail.EnhancedCode) string {
	switch {
	case c[2] == 6:
		return adviseLoop
	case c[2] == 4 && c.Class() == 5:
		return adviseDomain
	}
	return adviseAgain
}

func adviceOnPolicy(result *mail.Result, detail int) string {
	switch {
	case detail == 4 || detail == 5 || detail == 6 || detail == 10 || detail == 30:
		return adviseTLS
	case 20 <= detail && detail <= 26 || detail == 29:
		return adviseUnproven
	case detail == 27:
		return adviseSender
	case !result.Remote:
		return adviseOwnRules
	}
	return advisePolicy
}

func adviceOther(result *mail.Result, c mail.EnhancedCode) string {
	switch {
	case result.Scope == mail.OfUs:
		return adviseOurs
	case c.Class() == 4:
		return adviseAgain
	}
	return adviseOther
}

// login reports whether the server did not take our word for who we are.
func login(result *mail.Result) bool {
	c := result.Status()
	switch {
	case c[1] == 7 && (c[2] == 8 || c[2] == 9 || 11 <= c[2] && c[2] <= 13):
		return true
	case c[1] == 7 && c[2] == 0 && result.Scope == mail.OfUs:
		return true
	}
	return result.Remote && (result.Reply.Code == 530 || result.Reply.Code == 534 || result.Reply.Code == 535)
}

// codeOf guesses what a reply without a telling enhanced code means from its code and whom it speaks of: servers that
// send none say 550 of an unknown mailbox after RCPT, and of their rules after MAIL and DATA.
func codeOf(result *mail.Result) mail.EnhancedCode {
	c := result.Status()
	ofRecipient := result.Scope == mail.OfRecipient
	switch result.Reply.Code {
	case 550:
		if ofRecipient {
			return mail.EnhancedCode{5, 1, 1}
		}
		return mail.EnhancedCode{5, 7, 1}
	case 551:
		return mail.EnhancedCode{5, 1, 6}
	case 552:
		if ofRecipient {
			return mail.EnhancedCode{5, 2, 2}
		}
		return mail.EnhancedCode{5, 3, 4}
	case 553:
		return mail.EnhancedCode{5, 1, 3}
	}
	return c
}
