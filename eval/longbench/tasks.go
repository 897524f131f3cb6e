package longbench

import "slices"

// A spec is a task as the benchmark's config/dataset2prompt.json, config/dataset2maxlen.json, pred.py and eval.py define it.
type spec struct {
	name      string
	limit     int    // tokens to generate
	metric    metric // of an answer
	plain     bool   // without the model's chat template
	firstLine bool   // of the answer alone counts
	even      bool   // is in LongBench-E too
	prompt    string
}

// The prompts have their authors' slips.
const (
	qaPrompt = "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n" +
		"The following are given passages.\n{context}\n\n" +
		"Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n" +
		"Question: {input}\nAnswer:"
	articleRules = "as concisely as you can, using a single phrase or sentence if possible. If the question cannot be answered based on " +
		"the information in the article, write \"unanswerable\". If the question is a yes/no question, answer \"yes\", \"no\", or " +
		"\"unanswerable\". Do not provide any explanation.\n\n"
)

// specs are the tasks in their published order.
var specs = []spec{
	{"narrativeqa", 128, f1, false, false, false,
		"You are given a story, which can be either a novel or a movie script, and a question. Answer the question asconcisely as you can, " +
			"using a single phrase if possible. Do not provide any explanation.\n\nStory: {context}\n\n" +
			"Now, answer the question based on the story asconcisely as you can, using a single phrase if possible. " +
			"Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:"},
	{"qasper", 128, f1, false, false, true,
		"You are given a scientific article and a question. Answer the question " + articleRules + "Article: {context}\n\n" +
			" Answer the question based on the above article " + articleRules + "Question: {input}\n\nAnswer:"},
	{"multifieldqa_en", 64, f1, false, false, true,
		"Read the following text and answer briefly.\n\n{context}\n\n" +
			"Now, answer the following question based on the above text, only give me the answer and do not output any other words.\n\n" +
			"Question: {input}\nAnswer:"},
	{"multifieldqa_zh", 64, f1Chinese, false, false, false,
		"阅读以下文字并用中文简短回答：\n\n{context}\n\n现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n问题：{input}\n回答："},
	{"hotpotqa", 32, f1, false, false, true, qaPrompt},
	{"2wikimqa", 32, f1, false, false, true, qaPrompt},
	{"musique", 32, f1, false, false, false, qaPrompt},
	{"dureader", 128, rougeChinese, false, false, false,
		"请基于给定的文章回答下述问题。\n\n文章：{context}\n\n请基于上述文章回答下面的问题。\n\n问题：{input}\n回答："},
	{"gov_report", 512, rouge, false, false, true,
		"You are given a report by a government agency. Write a one-page summary of the report.\n\nReport:\n{context}\n\n" +
			"Now, write a one-page summary of the report.\n\nSummary:"},
	{"qmsum", 512, rouge, false, false, false,
		"You are given a meeting transcript and a query containing a question or instruction. Answer the query in one or more sentences.\n\n" +
			"Transcript:\n{context}\n\nNow, answer the query based on the above meeting transcript in one or more sentences.\n\n" +
			"Query: {input}\nAnswer:"},
	{"multi_news", 512, rouge, false, false, true,
		"You are given several news passages. Write a one-page summary of all news. \n\nNews:\n{context}\n\n" +
			"Now, write a one-page summary of all the news.\n\nSummary:"},
	{"vcsum", 512, rougeChinese, false, false, false,
		"下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n{context}\n\n会议总结："},
	{"trec", 64, classification, true, true, true,
		"Please determine the type of the question below. Here are some examples of questions.\n\n{context}\n{input}"},
	{"triviaqa", 32, f1, true, true, true,
		"Answer the question based on the given passage. Only give me the answer and do not output any other words. " +
			"The following are some examples.\n\n{context}\n\n{input}"},
	{"samsum", 128, rouge, true, true, true,
		"Summarize the dialogue into a few short sentences. The following are some examples.\n\n{context}\n\n{input}"},
	{"lsht", 64, classification, true, true, false, "请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}"},
	{"passage_count", 32, count, false, false, true,
		"There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please carefully read these paragraphs and " +
			"determine how many unique paragraphs there are after removing duplicates. In other words, how many non-repeating paragraphs " +
			"are there in total?\n\n{context}\n\nPlease enter the final count of unique paragraphs after removing duplicates. The output " +
			"format should only contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: "},
	{"passage_retrieval_en", 32, retrieval, false, false, true,
		"Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the abstract is from.\n\n{context}\n\n" +
			"The following is an abstract.\n\n{input}\n\nPlease enter the number of the paragraph that the abstract is from. The answer " +
			"format must be like \"Paragraph 1\", \"Paragraph 2\", etc.\n\nThe answer is: "},
	{"passage_retrieval_zh", 32, retrievalChinese, false, false, false,
		"以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n{context}\n\n下面是一个摘要\n\n{input}\n\n" +
			"请输入摘要所属段落的编号。答案格式必须是\"段落1\"，\"段落2\"等格式\n\n答案是："},
	{"lcc", 64, editSimilarity, true, false, true, "Please complete the code given below. \n{context}Next line of code:\n"},
	{"repobench-p", 64, editSimilarity, true, false, true, "Please complete the code given below. \n{context}{input}Next line of code:\n"},
}

// Names returns the names of the tasks, in their published order.
func Names() []string {
	var names []string
	for _, s := range specs {
		names = append(names, s.name)
	}
	return names
}

// EvenNames returns the names of the tasks of LongBench-E, whose samples are spread evenly over lengths.
func EvenNames() []string {
	var names []string
	for _, s := range specs {
		if s.even {
			names = append(names, s.name+evenSuffix)
		}
	}
	return names
}

// Chinese reports whether the metric of a task compares Chinese words, for which it wants a [Segmenter].
func Chinese(name string) bool {
	i := slices.IndexFunc(specs, func(s spec) bool { return s.name == name })
	return i >= 0 && (specs[i].metric == f1Chinese || specs[i].metric == rougeChinese)
}

// evenSuffix ends the names of LongBench-E's tasks and files.
const evenSuffix = "_e"
