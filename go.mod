module github.com/anchorattention/anchor

go 1.26
